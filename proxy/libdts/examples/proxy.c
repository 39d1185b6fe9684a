/* SPDX-License-Identifier: Apache-2.0
 * The smallest proxy: accept, read a request head, hand the connection over.
 *   proxy PORT ADDRESS:PORT...      (IPv4, or IPv6 as [ADDRESS]:PORT; destinations in turn)
 */
#include <arpa/inet.h>
#include <dts.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Room for an address of either family. */
union address {
	struct sockaddr sa;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
};

static socklen_t parse(char *text, union address *addr)
{
	int v6 = text[0] == '[';
	char *end = v6 ? strstr(text, "]:") : strchr(text, ':');
	if (!end)
		return 0;
	in_port_t port = htons((unsigned short)atoi(end + (v6 ? 2 : 1)));
	*end = '\0';
	if (v6) {
		addr->in6.sin6_family = AF_INET6;
		addr->in6.sin6_port = port;
		return inet_pton(AF_INET6, text + 1, &addr->in6.sin6_addr) == 1 ? sizeof addr->in6 : 0;
	}
	addr->in.sin_family = AF_INET;
	addr->in.sin_port = port;
	return inet_pton(AF_INET, text, &addr->in.sin_addr) == 1 ? sizeof addr->in : 0;
}

static void serve(int client, union address *dest, socklen_t *len_of, int count, int first)
{
	char head[8192 + 1];
	size_t len = 0;
	do {
		ssize_t got = read(client, head + len, sizeof head - 1 - len);
		if (got <= 0)
			return;
		len += (size_t)got;
		head[len] = '\0';
	} while (!strstr(head, "\r\n\r\n") && len < sizeof head - 1);
	for (int i = 0; i < count; i++) {
		int d = (first + i) % count;
		if (request_handover(client, &dest[d].sa, len_of[d], head, len) == 0)
			return;
		int error = errno;
		fprintf(stderr, "request_handover: %s\n", strerror(error));
		if (error != ECONNREFUSED && error != EHOSTUNREACH && error != ETIMEDOUT)
			return;
	}
}

int main(int argc, char **argv)
{
	static union address dest[64];
	socklen_t len_of[64];
	/* One socket for both families: IPv4 clients come as ::ffff:a.b.c.d. */
	struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
	int yes = 1, no = 0, count = argc - 2, listener = socket(AF_INET6, SOCK_STREAM, 0);
	if (count < 1 || count > 64)
		return fprintf(stderr, "usage: proxy PORT ADDRESS:PORT...\n"), 2;
	for (int i = 0; i < count; i++)
		if (!(len_of[i] = parse(argv[2 + i], &dest[i])))
			return fprintf(stderr, "%s: no address\n", argv[2 + i]), 2;
	here.sin6_port = htons((unsigned short)atoi(argv[1]));
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 128) < 0)
		return perror("listen"), 1;
	for (int next = 0;; next = (next + 1) % count) {
		int client = accept(listener, NULL, NULL);
		if (client < 0)
			continue;
		serve(client, dest, len_of, count, next);
		close(client); /* silent when the connection has moved */
	}
}
