/* flow in|out HOST PORT BYTES, flow connect HOST PORT TIMES: what the benchmark "net" has the guest do.
 *
 * It configures eth0 itself, so that no DHCP is measured. It says "begin", waits for a byte, and prints how many
 * microseconds of its own clock it took. */
#include <arpa/inet.h>
#include <net/if.h>
#include <net/route.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char room[1 << 18];

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

static void set(struct sockaddr *where, const char *address)
{
    struct sockaddr_in *in = (struct sockaddr_in *)where;
    in->sin_family = AF_INET;
    inet_pton(AF_INET, address, &in->sin_addr);
}

static void network(void)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq device = {.ifr_name = "eth0"};
    set(&device.ifr_addr, "10.0.2.15");
    ioctl(fd, SIOCSIFADDR, &device);
    set(&device.ifr_addr, "255.255.255.0");
    ioctl(fd, SIOCSIFNETMASK, &device);
    device.ifr_flags = IFF_UP | IFF_RUNNING;
    ioctl(fd, SIOCSIFFLAGS, &device);
    struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
    set(&route.rt_dst, "0.0.0.0");
    set(&route.rt_genmask, "0.0.0.0");
    set(&route.rt_gateway, "10.0.2.2");
    ioctl(fd, SIOCADDRT, &route);
    close(fd);
}

static int reach(const char *host, int port)
{
    struct sockaddr_in to = {.sin_port = htons((unsigned short)port)};
    set((struct sockaddr *)&to, host);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        perror("connect");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    int port = atoi(argv[3]);
    long amount = atol(argv[4]), done = 0;
    network();
    close(reach(argv[2], port)); /* ARP, and whatever else the first connection takes */
    char byte;
    if (write(1, "begin\n", 6) != 6 || read(0, &byte, 1) != 1)
        return 1;
    long before = now();
    if (argv[1][0] == 'c') {
        for (; done < amount; done++)
            close(reach(argv[2], port));
    } else if (argv[1][0] == 'o') {
        int fd = reach(argv[2], port);
        while (done < amount) {
            ssize_t sent = write(fd, room, sizeof room);
            if (sent <= 0) {
                perror("write");
                return 1;
            }
            done += sent;
        }
        shutdown(fd, SHUT_WR);
        while (read(fd, room, 1) > 0)
            ; /* the other side has it all */
    } else {
        int fd = reach(argv[2], port);
        ssize_t got;
        while ((got = read(fd, room, sizeof room)) > 0)
            done += got;
        if (done < amount)
            return 1;
    }
    printf("%ld\n", now() - before);
    return 0;
}
