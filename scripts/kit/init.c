/* Process 1 of a container of mode ssh or jupyter: makes ready, runs onstart and Jupyter, gives every connection to port
 * 22 to an sshd of its own, and buries whatever dies. It is all that an idle instance has of the kit, hence C: some
 * kilobytes. TERM, INT and QUIT end everything in order; HUP, USR1 and USR2 are passed on to onstart. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SBIN "/.kaalia/sbin/"
#define PORT 22
#define CONNECTIONS_MAX 512
#define BACKLOG 128
#define RETRY_S 2
/* Each connection has an sshd of its own, which knows nothing of the others: what MaxStartups 30:30:100 does is done
 * here, or strangers who never log in would fill the container's memory and processes. Whoever is younger than GRACE_S
 * may still be logging in: sshd's LoginGraceTime, its random 4 s, and a slow start. */
#define GRACE_S 40
#define REFUSING_FROM 30
#define REFUSING_ALL 100
#define REFUSED_AT_FIRST 77 /* of 256 */

static volatile sig_atomic_t ending;
static volatile sig_atomic_t passed_on;
static pid_t onstart;
static struct connection {
    pid_t child; /* 0: free */
    time_t began_s;
} connections[CONNECTIONS_MAX];
static const int heard[] = {SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};
#define HEARD (sizeof heard / sizeof heard[0])

static void hear(int number)
{
    if (number == SIGTERM || number == SIGINT || number == SIGQUIT)
        ending = 1;
    else if (number != SIGCHLD)
        passed_on = number;
}

static void say(const char *text) { (void)!write(2, text, strlen(text)); }

/* Starts a program of the kit. `connection`: its standard input and output, or -1 for those of the container. */
static pid_t spawn(char *program, int connection)
{
    char *const arguments[] = {program, NULL};
    pid_t child = fork();
    if (child != 0)
        return child;
    sigset_t none;
    sigemptyset(&none);
    for (size_t at = 0; at < HEARD; at++)
        signal(heard[at], SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    if (connection >= 0) {
        dup2(connection, 0);
        dup2(connection, 1);
    }
    execv(program, arguments);
    say("kaalia: cannot run a program of the access kit\n");
    _exit(127);
    return -1;
}

/* Buries the dead; -1 when there is nobody left to wait for. */
static int bury(int flags)
{
    pid_t dead;
    while ((dead = waitpid(-1, NULL, flags)) > 0)
        for (int at = 0; at < CONNECTIONS_MAX; at++)
            if (connections[at].child == dead)
                connections[at].child = 0;
    return dead == -1 && errno == ECHILD ? -1 : 0;
}

/* For both families of addresses, or for the only one that the kernel has; -1 while another program has the port. */
static int listening(void)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    int yes = 1, no = 0, type = SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
    int fd = socket(AF_INET6, type, 0), is_six = fd >= 0;
    if (!is_six && (fd = socket(AF_INET, type, 0)) < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    /* Connections inherit it. sshd sets it for terminals only, so that a login waits twice for the client's delayed
     * acknowledgement, 40 ms each. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (is_six)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(fd, is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four, is_six ? sizeof six : sizeof four) == 0 &&
        listen(fd, BACKLOG) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Since the machine's start, which no change of its clock moves. */
static time_t now_s(void)
{
    struct timespec now = {0};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* How many connections are young enough that nobody may have logged in by them. */
static int logging_in(time_t at_s)
{
    int count = 0;
    for (int at = 0; at < CONNECTIONS_MAX; at++)
        count += connections[at].child != 0 && at_s - connections[at].began_s < GRACE_S;
    return count;
}

/* At random, the likelier the more there are, so that a renter who tries again comes through. `dice`: 0 to 255. */
static int is_refused(int count, unsigned char dice)
{
    if (count < REFUSING_FROM)
        return 0;
    int rising = (256 - REFUSED_AT_FIRST) * (count - REFUSING_FROM) / (REFUSING_ALL - REFUSING_FROM);
    return dice < REFUSED_AT_FIRST + rising;
}

/* Takes those who wait, but no more than a queue full at a time: there are others to bury, and signals. */
static void serve(int listener)
{
    for (int at = 0, taken = 0; at < CONNECTIONS_MAX && taken < BACKLOG; at++, taken++) {
        while (at < CONNECTIONS_MAX && connections[at].child != 0)
            at++;
        int connection = at < CONNECTIONS_MAX ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
        if (connection < 0)
            return;
        unsigned char dice = 0;
        getrandom(&dice, sizeof dice, GRND_NONBLOCK);
        pid_t child = is_refused(logging_in(now_s()), dice) ? 0 : spawn(SBIN "connect", connection);
        if (child > 0)
            connections[at] = (struct connection){.child = child, .began_s = now_s()};
        close(connection);
    }
}

static void make_ready(void)
{
    pid_t child = spawn(SBIN "prepare", -1);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR && !ending)
        ;
}

int main(void)
{
    sigset_t blocked, open;
    struct sigaction action = {.sa_handler = hear};
    sigemptyset(&blocked);
    sigemptyset(&open);
    for (size_t at = 0; at < HEARD; at++) {
        sigaddset(&blocked, heard[at]);
        sigaction(heard[at], &action, NULL);
    }
    int listener = listening(), is_told = 0;
    make_ready();
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    if (!ending && access("/.kaalia/contract/jupyter", F_OK) == 0)
        spawn(SBIN "jupyter", -1);
    if (!ending && access("/root/onstart.sh", F_OK) == 0)
        onstart = spawn(SBIN "onstart", -1);
    while (!ending) {
        if (listener < 0 && (listener = listening()) < 0 && !is_told) {
            say("kaalia: port 22 is in use in this container; ssh is what listens there\n");
            is_told = 1;
        }
        int is_full = 1;
        for (int at = 0; at < CONNECTIONS_MAX && is_full; at++)
            is_full = connections[at].child != 0;
        struct pollfd look = {.fd = is_full ? -1 : listener, .events = POLLIN};
        struct timespec soon = {.tv_sec = RETRY_S};
        int ready = ppoll(&look, 1, listener < 0 ? &soon : NULL, &open);
        bury(WNOHANG);
        if (passed_on && onstart > 0)
            kill(-onstart, passed_on);
        passed_on = 0;
        if (ready > 0)
            serve(listener);
    }
    kill(-1, SIGTERM);
    kill(-1, SIGCONT);
    sigprocmask(SIG_SETMASK, &open, NULL);
    while (bury(0) == 0)
        ;
    return 0;
}
