/* serve PORT[/udp]...: answers on every port named. TCP: one HTTP answer; UDP: the datagram back.
   By IPv6 too, where the kernel has it. One static program with no libraries, so that it runs in an image that holds nothing else. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_PORTS 128

static void leave(int signal_number) {
    (void)signal_number;
    _exit(0);
}

static int open_port(const char *text, int *is_udp) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(text))};
    struct sockaddr_in6 both = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(text))};
    int one = 1, zero = 0, handle, is_ipv6;

    *is_udp = strstr(text, "/udp") != NULL;
    handle = socket(AF_INET6, *is_udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    is_ipv6 = handle >= 0;
    if (is_ipv6)
        setsockopt(handle, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
    else
        handle = socket(AF_INET, *is_udp ? SOCK_DGRAM : SOCK_STREAM, 0);
    setsockopt(handle, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(handle, is_ipv6 ? (struct sockaddr *)&both : (struct sockaddr *)&address,
             is_ipv6 ? sizeof both : sizeof address) || (!*is_udp && listen(handle, 16))) {
        perror(text);
        exit(1);
    }
    return handle;
}

static void answer_tcp(int handle, const char *port) {
    char request[4096], answer[256], body[64];
    int peer = accept(handle, NULL, NULL);

    if (peer < 0 || read(peer, request, sizeof request) < 0) return;
    snprintf(body, sizeof body, "served on %s\n", port);
    snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n%s",
             strlen(body), body);
    if (write(peer, answer, strlen(answer)) < 0) perror("write");
    close(peer);
}

static void answer_udp(int handle) {
    char datagram[2048];
    struct sockaddr_storage peer;
    socklen_t peer_size = sizeof peer;
    ssize_t size = recvfrom(handle, datagram, sizeof datagram, 0, (struct sockaddr *)&peer, &peer_size);

    if (size >= 0) sendto(handle, datagram, size, 0, (struct sockaddr *)&peer, peer_size);
}

int main(int count, char **words) {
    struct pollfd handles[MAX_PORTS];
    int is_udp[MAX_PORTS], ports = count - 1, index;

    if (ports > MAX_PORTS) ports = MAX_PORTS;
    signal(SIGTERM, leave);
    signal(SIGINT, leave);
    signal(SIGPIPE, SIG_IGN);
    for (index = 0; index < ports; index++) {
        handles[index].fd = open_port(words[index + 1], &is_udp[index]);
        handles[index].events = POLLIN;
        printf("serving %s\n", words[index + 1]);
    }
    fflush(stdout);
    while (poll(handles, ports, -1) >= 0)
        for (index = 0; index < ports; index++)
            if (handles[index].revents & POLLIN) {
                if (is_udp[index])
                    answer_udp(handles[index].fd);
                else
                    answer_tcp(handles[index].fd, words[index + 1]);
            }
    return 1;
}
