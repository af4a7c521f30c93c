/*
 * Calls what it is told to: a packet "FUNCTION WORD..." of the socket whose number is argv[1] is answered by the
 * result. Words: n NULL, iN a number, f the next descriptor that came along, tHEX text, aWORD,WORD,... an array (x: a
 * NULL in it), dHEX bytes, sN,N,... sizes with a 0 behind them, o an address for a result. What they become is never
 * freed: the library may hold on to it.
 */

#include <libkrun.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static char *next;
static int descriptors[16], used;
static const uint8_t *out_data;
static size_t out_size;
static int is_out;

static char *word(void)
{
    char *found = strsep(&next, " ");
    if (!found) {
        fprintf(stderr, "driver: too few words\n");
        exit(99);
    }
    return found;
}

static char *unhex(const char *text, size_t digits)
{
    char *bytes = calloc(1, digits / 2 + 1);
    for (size_t i = 0; i + 1 < digits; i += 2) {
        char pair[3] = {text[i], text[i + 1], 0};
        bytes[i / 2] = (char)strtoul(pair, NULL, 16);
    }
    return bytes;
}

static long long number(void)
{
    char *found = word();
    if (*found == 'f')
        return descriptors[used++];
    if (found[1] == '-')
        return strtoll(found + 1, NULL, 10);
    return (long long)strtoull(found + 1, NULL, 10);
}

static char *text(void)
{
    char *found = word();
    return *found == 'n' ? NULL : unhex(found + 1, strlen(found + 1));
}

static void *data(void)
{
    return text();
}

static const char *const *texts(void)
{
    char *found = word(), *entry;
    size_t count = 0;
    const char **array;
    if (*found++ == 'n')
        return NULL;
    array = calloc(strlen(found) + 2, sizeof *array);
    while (*found && (entry = strsep(&found, ",")) != NULL) {
        array[count++] = *entry == 'x' ? NULL : unhex(entry + 1, strlen(entry + 1));
        if (!found)
            break;
    }
    return array;
}

static const uint16_t *sizes(void)
{
    char *found = word(), *entry;
    size_t count = 0;
    uint16_t *array;
    if (*found++ == 'n')
        return NULL;
    array = calloc(strlen(found) + 2, sizeof *array);
    while (*found && (entry = strsep(&found, ",")) != NULL) {
        array[count++] = (uint16_t)strtoul(entry, NULL, 10);
        if (!found)
            break;
    }
    return array;
}

static const uint8_t **data_out(void)
{
    is_out = 1;
    return *word() == 'n' ? NULL : &out_data;
}

static size_t *size_out(void)
{
    return *word() == 'n' ? NULL : &out_size;
}

static long call(const char *name)
{
#include "cases.h"
    fprintf(stderr, "driver: no function %s\n", name);
    exit(99);
}

int main(int argc, char **argv)
{
    static char packet[1 << 20];
    int wire = argc > 1 ? atoi(argv[1]) : 0;
    for (;;) {
        char control[CMSG_SPACE(sizeof descriptors)], answer[128];
        struct iovec part = {packet, sizeof packet - 1};
        struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                                 .msg_controllen = sizeof control};
        ssize_t got = recvmsg(wire, &message, MSG_CMSG_CLOEXEC);
        struct cmsghdr *header;
        int length;
        if (got <= 0)
            return 0;
        packet[got] = 0;
        used = is_out = 0;
        header = CMSG_FIRSTHDR(&message);
        if (header)
            memcpy(descriptors, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
        next = packet;
        length = snprintf(answer, sizeof answer, "%ld", call(word()));
        if (is_out) {
            length += snprintf(answer + length, sizeof answer - (size_t)length, " %zu ", out_size);
            for (size_t i = 0; i < 4 && i < out_size; i++)
                length += snprintf(answer + length, sizeof answer - (size_t)length, "%02x", out_data[i]);
        }
        if (send(wire, answer, (size_t)length, 0) < 0)
            return 1;
    }
}
