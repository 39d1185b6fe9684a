/* SPDX-License-Identifier: Apache-2.0
 * The smallest proxy: accept, read a request head, hand the connection over.
 *   proxy PORT ADDRESS:PORT...      (IPv4; destinations in turn)
 */
#include <arpa/inet.h>
#include <dts.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int parse(char *text, struct sockaddr_in *addr)
{
	char *colon = strchr(text, ':');
	if (!colon)
		return -1;
	*colon = '\0';
	addr->sin_family = AF_INET;
	addr->sin_port = htons((unsigned short)atoi(colon + 1));
	return inet_pton(AF_INET, text, &addr->sin_addr) == 1 ? 0 : -1;
}

static void serve(int client, struct sockaddr_in *dest, int count, int first)
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
		struct sockaddr_in *d = &dest[(first + i) % count];
		if (request_handover(client, (struct sockaddr *)d, sizeof *d, head, len) == 0)
			return;
		int error = errno;
		fprintf(stderr, "request_handover: %s\n", strerror(error));
		if (error != ECONNREFUSED && error != EHOSTUNREACH && error != ETIMEDOUT)
			return;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in dest[64] = {0}, here = {.sin_family = AF_INET};
	int yes = 1, count = argc - 2, listener = socket(AF_INET, SOCK_STREAM, 0);
	if (count < 1 || count > 64)
		return fprintf(stderr, "usage: proxy PORT ADDRESS:PORT...\n"), 2;
	for (int i = 0; i < count; i++)
		if (parse(argv[2 + i], &dest[i]) < 0)
			return fprintf(stderr, "%s: no address\n", argv[2 + i]), 2;
	here.sin_port = htons((unsigned short)atoi(argv[1]));
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 128) < 0)
		return perror("listen"), 1;
	for (int next = 0;; next = (next + 1) % count) {
		int client = accept(listener, NULL, NULL);
		if (client < 0)
			continue;
		serve(client, dest, count, next);
		close(client); /* silent when the connection has moved */
	}
}
