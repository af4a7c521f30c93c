/* The guest's side of the demo: look around, read the secret, leave with a code. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static void list(const char *path)
{
    DIR *folder = opendir(path);
    printf("%-16s", path);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            printf(" %s", entry->d_name);
    printf("\n");
    if (folder)
        closedir(folder);
}

static void show(const char *path)
{
    char text[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    printf("%-16s ", path);
    if (length < 0) {
        printf("cannot be read: %s\n", strerror(errno));
    } else {
        text[length] = '\0';
        text[strcspn(text, "\n")] = '\0';
        printf("%s\n", text);
    }
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    struct utsname name;
    uname(&name);
    printf("%-16s %s %s %s, pid %d, as uid %d\n", "uname", name.sysname, name.release, name.machine, getpid(), getuid());
    for (int i = 1; i < argc; i++)
        printf("argument %-7d %s\n", i, argv[i]);
    list("/");
    list("/etc");
    show("/etc/motd");
    show("/secret");
    show("/secret");
    show("/proc/mounts");
    fflush(stdout);
    fprintf(stderr, "and this goes to standard error\n");
    return 42;
}
