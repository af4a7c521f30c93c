/* Copies argv[1] MiB of bytes to standard output, and waits for the end of its input between two lines on standard
 * error: a workload that keeps the host busy, and one that stays. */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char block[1 << 20];
    char byte;
    memset(block, 'x', sizeof block);
    for (int count = argc > 1 ? atoi(argv[1]) : 0; count > 0; count--)
        for (size_t sent = 0; sent < sizeof block;) {
            ssize_t written = write(1, block + sent, sizeof block - sent);
            if (written <= 0)
                return 1;
            sent += written;
        }
    if (write(2, "poured\n", 7) != 7)
        return 1;
    while (read(0, &byte, 1) > 0)
        ;
    return 0;
}
