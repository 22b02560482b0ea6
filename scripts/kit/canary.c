/* What runs in the machine's own test container, alone and as process 1: it answers on a TCP and a UDP port, looks at
 * its GPUs, its network and its disk, and says what it sees, a line each, which the daemon judges.
 *
 * canary KEY PORT QUOTA NAME ADDRESS OUT_PORT
 *   KEY       what an answer begins with
 *   PORT      where it listens, by TCP and by UDP
 *   QUOTA     its size in bytes; 0: no size is enforced, nothing is written
 *   NAME      a name to look up, ADDRESS and OUT_PORT: where to connect to; "-": nothing
 *
 *   gpu NAME MAJOR MINOR try      about to open a device, which may hang
 *   gpu NAME MAJOR MINOR ERRNO    0: it could be opened
 *   address INTERFACE ADDRESS
 *   name CODE                     0: it was found (else as getaddrinfo(3) has it)
 *   connect ERRNO
 *   wrote BYTES ERRNO             what it could write until a write was refused; 0: none was
 *   done */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LIFE_S 900 /* if nobody ends it; the variable KAALIA_LIFE_S makes it longer */
#define CONNECT_MS 5000
#define ANSWER_MS 2000
#define CHALLENGE_MAX 64
#define BLOCK (256 * 1024)
#define FILL "/canary.fill"

static void leave(int number)
{
    (void)number;
    _exit(0);
}

static int listen_on(int kind, int port)
{
    struct sockaddr_in where = {0};
    int yes = 1, door = socket(AF_INET, kind | SOCK_CLOEXEC, 0);
    where.sin_family = AF_INET;
    where.sin_port = htons(port);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(door, (struct sockaddr *)&where, sizeof where) < 0 || (kind == SOCK_STREAM && listen(door, 16) < 0)) {
        printf("listen %d\n", errno);
        exit(1);
    }
    return door;
}

/* The key and what was asked: nobody else would answer that. */
static int answer(const char *key, const char *asked, int length, char *told)
{
    int size = strlen(key);
    memcpy(told, key, size);
    memcpy(told + size, asked, length);
    return size + length;
}

static void answer_stream(int door, const char *key)
{
    char asked[CHALLENGE_MAX], told[CHALLENGE_MAX * 2];
    int caller = accept4(door, NULL, NULL, SOCK_CLOEXEC);
    struct pollfd ready = {caller, POLLIN, 0};
    if (caller < 0)
        return;
    if (poll(&ready, 1, ANSWER_MS) == 1) {
        int length = read(caller, asked, sizeof asked);
        if (length > 0)
            (void)!write(caller, told, answer(key, asked, length, told));
    }
    close(caller);
}

static void answer_datagram(int door, const char *key)
{
    char asked[CHALLENGE_MAX], told[CHALLENGE_MAX * 2];
    struct sockaddr_in caller;
    socklen_t size = sizeof caller;
    int length = recvfrom(door, asked, sizeof asked, MSG_DONTWAIT, (struct sockaddr *)&caller, &size);
    if (length > 0)
        sendto(door, told, answer(key, asked, length, told), MSG_DONTWAIT, (struct sockaddr *)&caller, size);
}

/* nvidia0 and the like; nvidiactl, nvidia-uvm and the rest are there for all of them. */
static int is_gpu(const char *name)
{
    const char *digits = name + strlen("nvidia");
    return !strncmp(name, "nvidia", strlen("nvidia")) && *digits && strspn(digits, "0123456789") == strlen(digits);
}

static void look_at_gpus(void)
{
    char path[300];
    struct stat node;
    struct dirent *entry;
    DIR *devices = opendir("/dev");
    while (devices != NULL && (entry = readdir(devices)) != NULL) {
        if (!is_gpu(entry->d_name))
            continue;
        snprintf(path, sizeof path, "/dev/%s", entry->d_name);
        if (stat(path, &node) < 0 || !S_ISCHR(node.st_mode))
            continue;
        int major_number = major(node.st_rdev), minor_number = minor(node.st_rdev);
        printf("gpu %s %d %d try\n", entry->d_name, major_number, minor_number);
        int device = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        printf("gpu %s %d %d %d\n", entry->d_name, major_number, minor_number, device < 0 ? errno : 0);
        if (device >= 0)
            close(device);
    }
}

static void look_at_addresses(void)
{
    struct ifreq asked;
    struct if_nameindex *all = if_nameindex();
    int any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (struct if_nameindex *one = all; one != NULL && one->if_index != 0; one++) {
        memset(&asked, 0, sizeof asked);
        strncpy(asked.ifr_name, one->if_name, IFNAMSIZ - 1);
        if (strcmp(one->if_name, "lo") && ioctl(any, SIOCGIFADDR, &asked) == 0)
            printf("address %s %s\n", one->if_name, inet_ntoa(((struct sockaddr_in *)&asked.ifr_addr)->sin_addr));
    }
    close(any);
}

static int connected(const char *address, const char *port)
{
    struct addrinfo wanted = {0}, *found;
    int problem = 0;
    socklen_t size = sizeof problem;
    wanted.ai_socktype = SOCK_STREAM;
    wanted.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    if (getaddrinfo(address, port, &wanted, &found) != 0)
        return EINVAL;
    int way = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (way < 0)
        return errno;
    if (connect(way, found->ai_addr, found->ai_addrlen) < 0) {
        struct pollfd ready = {way, POLLOUT, 0};
        if (errno != EINPROGRESS)
            problem = errno;
        else if (poll(&ready, 1, CONNECT_MS) != 1)
            problem = ETIMEDOUT;
        else
            getsockopt(way, SOL_SOCKET, SO_ERROR, &problem, &size);
    }
    close(way);
    freeaddrinfo(found);
    return problem;
}

static void look_outside(const char *name, const char *address, const char *port)
{
    struct addrinfo wanted = {0}, *found;
    wanted.ai_socktype = SOCK_STREAM;
    if (strcmp(name, "-"))
        printf("name %d\n", getaddrinfo(name, port, &wanted, &found));
    if (strcmp(address, "-"))
        printf("connect %d\n", connected(address, port));
}

/* Past its size by half of it. What compresses or is all the same might take no room. */
static void fill(long long size)
{
    static unsigned block[BLOCK / sizeof(unsigned)];
    unsigned state = 2463534242u;
    long long written = 0;
    int problem = 0, file = open(FILL, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0)
        problem = errno;
    while (problem == 0 && written < size + size / 2) {
        for (unsigned at = 0; at < BLOCK / sizeof(unsigned); at++) {
            state ^= state << 13, state ^= state >> 17, state ^= state << 5;
            block[at] = state;
        }
        ssize_t done = write(file, block, BLOCK);
        if (done < 0)
            problem = errno;
        else
            written += done;
        if (problem == 0 && written % (4 * 1024 * 1024) == 0 && fsync(file) < 0)
            problem = errno;
    }
    unlink(FILL);
    close(file);
    printf("wrote %lld %d\n", written, problem);
}

int main(int count, char **words)
{
    if (count != 7 || strlen(words[1]) > CHALLENGE_MAX)
        return 2;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    signal(SIGALRM, leave);
    signal(SIGCHLD, SIG_IGN);
    const char *life = getenv("KAALIA_LIFE_S");
    alarm(life && atoi(life) > LIFE_S ? atoi(life) : LIFE_S);
    int stream = listen_on(SOCK_STREAM, atoi(words[2])), datagram = listen_on(SOCK_DGRAM, atoi(words[2]));
    if (fork() == 0) {
        look_at_addresses();
        look_outside(words[4], words[5], words[6]);
        if (atoll(words[3]) > 0)
            fill(atoll(words[3]));
        look_at_gpus();
        printf("done\n");
        _exit(0);
    }
    for (;;) {
        struct pollfd doors[] = {{stream, POLLIN, 0}, {datagram, POLLIN, 0}};
        if (poll(doors, 2, -1) < 1)
            continue;
        if (doors[0].revents)
            answer_stream(stream, words[1]);
        if (doors[1].revents)
            answer_datagram(datagram, words[1]);
    }
}
