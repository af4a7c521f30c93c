/* An init of somebody else's: exit code 42 if libkrun's words have arrived, else 1. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <unistd.h>

#define EXIT_CODE 0x7602

static int is(const char *name, const char *value)
{
    const char *found = getenv(name);
    return found && strcmp(found, value) == 0;
}

int main(void)
{
    int code = is("KRUN_INIT", "/bin/program") && is("KRUN_WORKDIR", "/bin") ? 42 : 1;
    ioctl(open("/", O_RDONLY), EXIT_CODE, code);
    sync();
    reboot(RB_AUTOBOOT);
    return 0;
}
