/* Writes one line. As PID 1 it then ends the machine; else it waits for the end of its input. */

#include <sys/reboot.h>
#include <unistd.h>

int main(void)
{
    char byte;
    if (write(1, "first line\n", 11) != 11)
        return 1;
    if (getpid() == 1)
        reboot(RB_AUTOBOOT);
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
