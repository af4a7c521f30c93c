/* The network: flows that show every lost byte, questions and answers, and frames that no kernel would send. */
#define _GNU_SOURCE
#include "tool.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static unsigned char room[1 << 18];

static struct addrinfo *look_up(const char *host, const char *port, int type)
{
    struct addrinfo wanted = {.ai_socktype = type}, *found = NULL;
    int failed = getaddrinfo(host, port, &wanted, &found);
    if (failed) {
        printf("no address: %s\n", gai_strerror(failed));
        exit(67);
    }
    return found;
}

/* A connected socket; its calls wait at most `seconds`. Ends the program with a line when there is no connection. */
static int reach(const char *host, const char *port, int type, int seconds)
{
    struct addrinfo *to = look_up(host, port, type);
    int fd = socket(to->ai_family, type, 0);
    struct timeval limit = {.tv_sec = seconds};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* connect waits as long */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, to->ai_addr, to->ai_addrlen) < 0) {
        printf("%s\n", errno == EINPROGRESS ? "no answer" : strerror(errno));
        exit(0);
    }
    return fd;
}

/* links: the names of all network devices */
static int links(int argc, char **argv)
{
    (void)argc;
    (void)argv;
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *one = all; one && one->if_index; one++)
        printf("%s\n", one->if_name);
    return 0;
}

/* ipv6-address SECONDS: wait for a global address, print it */
static int ipv6_address(int argc, char **argv)
{
    (void)argc;
    for (long left = 20 * number(argv[1]); left > 0; left--) {
        FILE *table = fopen("/proc/net/if_inet6", "r");
        char address[33], name[17];
        unsigned index, prefix, scope, flags;
        while (table && fscanf(table, "%32s %x %x %x %x %16s", address, &index, &prefix, &scope, &flags, name) == 6)
            if (scope == 0 && !(flags & 0x40)) { /* global, not tentative */
                printf("%s\n", address);
                return 0;
            }
        if (table)
            fclose(table);
        usleep(50000);
    }
    printf("none\n");
    return 0;
}

/* resolve NAME: its addresses */
static int resolve(int argc, char **argv)
{
    (void)argc;
    for (struct addrinfo *one = look_up(argv[1], NULL, SOCK_STREAM); one; one = one->ai_next) {
        char text[64] = "";
        getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
        printf("%s\n", text);
    }
    return 0;
}

/* tcp-try HOST PORT SECONDS: "connected", or why not */
static int tcp_try(int argc, char **argv)
{
    (void)argc;
    reach(argv[1], argv[2], SOCK_STREAM, (int)number(argv[3]));
    printf("connected\n");
    return 0;
}

/* ask tcp|udp HOST PORT TEXT: the answer */
static int ask(int argc, char **argv)
{
    (void)argc;
    int fd = reach(argv[2], argv[3], argv[1][0] == 'u' ? SOCK_DGRAM : SOCK_STREAM, 10);
    write_all(fd, argv[4], strlen(argv[4]));
    ssize_t got = read(fd, room, sizeof room);
    if (got < 0)
        printf("no answer: %s\n", strerror(errno));
    else
        printf("%.*s\n", (int)got, (char *)room);
    return 0;
}

/* serve tcp|udp PORT: answer one question with itself and who asked; says "ready" first */
static int serve(int argc, char **argv)
{
    (void)argc;
    int type = argv[1][0] == 'u' ? SOCK_DGRAM : SOCK_STREAM;
    int fd = socket(AF_INET6, type, 0), yes = 1;
    struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_port = htons(number(argv[2]))}, peer;
    socklen_t size = sizeof peer;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (void *)&own, sizeof own) < 0 || (type == SOCK_STREAM && listen(fd, 5) < 0)) {
        perror("serve");
        return 65;
    }
    dprintf(1, "ready\n");
    int talk = type == SOCK_STREAM ? accept(fd, (void *)&peer, &size) : fd;
    ssize_t got = recvfrom(talk, room, 1024, 0, type == SOCK_DGRAM ? (void *)&peer : NULL, &size);
    if (type == SOCK_STREAM) {
        size = sizeof peer;
        getpeername(talk, (void *)&peer, &size);
    }
    char text[64] = "", answer[2048];
    getnameinfo((void *)&peer, sizeof peer, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    int length = snprintf(answer, sizeof answer, "guest heard %.*s from %s", (int)got, (char *)room, text);
    sendto(talk, answer, (size_t)length, 0, type == SOCK_DGRAM ? (void *)&peer : NULL, type == SOCK_DGRAM ? size : 0);
    if (type == SOCK_STREAM) {
        shutdown(talk, SHUT_WR);
        while (read(talk, room, sizeof room) > 0)
            ;
    } else {
        usleep(200000); /* the answer is on its way */
    }
    return 0;
}

static uint64_t fill(uint64_t next, size_t size)
{
    for (size_t i = 0; i < size / 8; i++)
        ((uint64_t *)room)[i] = next++;
    return next;
}

/* tcp-pour HOST PORT BYTES: after a byte of the other side 64-bit counters; then the answer to the end of them */
static int tcp_pour(int argc, char **argv)
{
    (void)argc;
    int fd = reach(argv[1], argv[2], SOCK_STREAM, 60);
    long left = number(argv[3]);
    uint64_t next = 0;
    if (read(fd, room, 1) != 1) /* a greeting: see docs/network.md about connections on which the other side is silent */
        printf("no greeting\n");
    while (left > 0) {
        size_t size = left < (long)sizeof room ? (size_t)left : sizeof room;
        next = fill(next, size);
        int failed = write_all(fd, room, size);
        if (failed < 0) {
            printf("%ld left: %s\n", left, strerror(-failed));
            return 66;
        }
        left -= (long)size;
    }
    shutdown(fd, SHUT_WR);
    ssize_t got = read(fd, room, sizeof room);
    printf("%.*s\n", got < 0 ? 0 : (int)got, (char *)room);
    return 0;
}

/* tcp-drain HOST PORT: read counters to their end; how many bytes were right */
static int tcp_drain(int argc, char **argv)
{
    (void)argc;
    int fd = reach(argv[1], argv[2], SOCK_STREAM, 60);
    uint64_t expected = 0, right = 0;
    size_t kept = 0;
    for (;;) {
        ssize_t got = read(fd, room + kept, sizeof room - kept);
        if (got <= 0) {
            printf("%llu %s\n", (unsigned long long)right, got < 0 ? strerror(errno) : "end");
            return 0;
        }
        size_t whole = (kept + (size_t)got) / 8;
        for (size_t i = 0; i < whole; i++, right += 8)
            if (((uint64_t *)room)[i] != expected++) {
                printf("%llu wrong\n", (unsigned long long)right);
                return 66;
            }
        kept = (kept + (size_t)got) % 8;
        memmove(room, room + 8 * whole, kept);
    }
}

static const unsigned char ours[6] = {0x52, 0x54, 0, 0x6b, 0x72, 0x75}, theirs[6] = {0x52, 0x55, 0x0a, 0, 2, 2};

static int raw_socket(void)
{
    int fd = socket(AF_PACKET, SOCK_RAW, htons(3)); /* ETH_P_ALL */
    struct sockaddr_ll own = {.sll_family = AF_PACKET, .sll_protocol = htons(3)};
    own.sll_ifindex = (int)if_nametoindex("eth0");
    if (bind(fd, (void *)&own, sizeof own) < 0) {
        perror("AF_PACKET");
        exit(65);
    }
    return fd;
}

static uint32_t sum(const void *data, size_t size, uint32_t so_far)
{
    const unsigned char *at = data;
    for (size_t i = 0; i < size; i++)
        so_far += i & 1 ? at[i] : (uint32_t)at[i] << 8;
    return so_far;
}

static uint16_t finish(uint32_t total)
{
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return htons((uint16_t)~total);
}

/* One frame with a TCP SYN or a UDP datagram for an address that no kernel would send off the machine. */
static size_t forge(unsigned char *frame, const char *to, int port, int protocol)
{
    size_t payload = protocol == IPPROTO_TCP ? 20 : 12, header = strchr(to, ':') ? 40 : 20;
    unsigned char *ip = frame + 14, *body = ip + header, addresses[32];
    memset(frame, 0, 14 + header + payload);
    memcpy(frame, theirs, 6);
    memcpy(frame + 6, ours, 6);
    size_t length = header == 40 ? 16 : 4;
    if (header == 40) {
        memcpy(frame + 12, "\x86\xdd\x60\0\0\0", 6);
        ip[5] = (unsigned char)payload, ip[6] = (unsigned char)protocol, ip[7] = 64;
        inet_pton(AF_INET6, "fd6b:7275:6e00::15", ip + 8);
        inet_pton(AF_INET6, to, ip + 24);
        memcpy(addresses, ip + 8, 32);
    } else {
        memcpy(frame + 12, "\x08\0\x45\0\0", 5);
        ip[3] = (unsigned char)(header + payload), ip[8] = 64, ip[9] = (unsigned char)protocol;
        inet_pton(AF_INET, "10.0.2.15", ip + 12);
        inet_pton(AF_INET, to, ip + 16);
        uint16_t check = finish(sum(ip, 20, 0));
        memcpy(ip + 10, &check, 2);
        memcpy(addresses, ip + 12, 8);
    }
    body[0] = 0x9c, body[1] = (unsigned char)rand(), body[2] = (unsigned char)(port >> 8), body[3] = (unsigned char)port;
    if (protocol == IPPROTO_TCP)
        body[7] = 1, body[12] = 0x50, body[13] = 2, body[14] = 0xff;
    else
        body[5] = 12, memcpy(body + 8, "hoax", 4);
    uint32_t total = sum(addresses, 2 * length, (uint32_t)protocol + (uint32_t)payload);
    uint16_t check = finish(sum(body, payload, total));
    memcpy(body + (protocol == IPPROTO_TCP ? 16 : 6), &check, 2);
    return 14 + header + payload;
}

/* forge tcp|udp ADDRESS PORT: send such a frame, and say what TCP answers at once */
static int forge_one(int argc, char **argv)
{
    (void)argc;
    int fd = raw_socket(), protocol = argv[1][0] == 'u' ? IPPROTO_UDP : IPPROTO_TCP;
    srand((unsigned)time(NULL) ^ (unsigned)getpid());
    unsigned char frame[128];
    size_t size = forge(frame, argv[2], (int)number(argv[3]), protocol);
    if (write(fd, frame, size) != (ssize_t)size)
        perror("write");
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    for (int tries = 0; tries < 200 && poll(&wait, 1, 300) > 0; tries++) {
        ssize_t got = read(fd, room, sizeof room);
        size_t header = room[12] == 0x86 ? 40 : 20, at = 14 + header;
        unsigned kind = header == 40 ? room[14 + 6] : room[14 + 9];
        if (got > (ssize_t)at + 13 && kind == IPPROTO_TCP && memcmp(room + 6, ours, 6) != 0) {
            printf("%s\n", room[at + 13] & 4 ? "refused" : "answered");
            return 0;
        }
    }
    printf("silent\n");
    return 0;
}

/* noise COUNT: frames of random sizes and bytes, half of them with an IP header that lies */
static int noise(int argc, char **argv)
{
    (void)argc;
    int fd = raw_socket();
    long sent = 0;
    srand(1);
    for (long i = number(argv[1]); i > 0; i--) {
        size_t size = (size_t)(14 + (i % 16 ? rand() % 1600 : rand() % 65520));
        for (size_t at = 0; at < size && at < 2048; at++)
            room[at] = (unsigned char)rand();
        memcpy(room, theirs, 6);
        memcpy(room + 6, ours, 6);
        static const char kinds[4][3] = {"\x08\0", "\x86\xdd", "\x08\x06", "\x81\0"};
        if (i & 1)
            memcpy(room + 12, kinds[rand() & 3], 2);
        if (i & 1)
            room[14] = (unsigned char)((room[12] == 8 ? 0x40 : 0x60) | (rand() & 15));
        sent += write(fd, room, size) == (ssize_t)size;
    }
    printf("%s\n", sent > 0 ? "sent" : "none sent");
    return 0;
}

static int has_route(void)
{
    FILE *table = fopen("/proc/net/route", "r");
    char line[256];
    int found = 0;
    while (table && fgets(line, sizeof line, table))
        found |= strncmp(line, "eth0\t00000000\t", 14) == 0;
    if (table)
        fclose(table);
    return found;
}

/* online COMMAND... [+ COMMAND...]...: once there is a default route, each command of this table, whatever they say */
static int online(int argc, char **argv)
{
    for (int left = 400; !has_route() && left > 0; left--)
        usleep(50000);
    if (!has_route())
        printf("no route\n");
    for (int from = 1, to; from < argc; from = to + 1) {
        for (to = from; to < argc && strcmp(argv[to], "+") != 0; to++)
            ;
        fflush(stdout);
        if (fork() == 0)
            for (const struct command *one = network_commands; one->name; one++)
                if (strcmp(one->name, argv[from]) == 0)
                    exit(one->run(to - from, argv + from));
        int status;
        wait(&status);
        if (!WIFEXITED(status))
            printf("%s died\n", argv[from]);
    }
    return 0;
}

const struct command network_commands[] = {
    {"online", online},    {"links", links},         {"ipv6-address", ipv6_address},
    {"resolve", resolve},  {"tcp-try", tcp_try},     {"ask", ask},
    {"serve", serve},      {"tcp-pour", tcp_pour},   {"tcp-drain", tcp_drain},
    {"forge", forge_one},  {"noise", noise},         {NULL, NULL},
};
