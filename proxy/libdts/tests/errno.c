/* SPDX-License-Identifier: Apache-2.0
 * Each bad argument gives the errno that dts.h names. Exit 0 when all do.
 */
#include <dts.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static int failures;

static void expect(const char *what, int wanted, int fd, const void *dest,
		   socklen_t len, const char *buf, size_t buflen)
{
	errno = 0;
	int result = request_handover(fd, dest, len, buf, buflen);
	if (result != -1 || errno != wanted) {
		fprintf(stderr, "%s: returned %d, %s; wanted %s\n", what, result,
			strerror(errno), strerror(wanted));
		failures++;
	}
}

int main(void)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
	struct sockaddr other = {.sa_family = AF_UNIX};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	expect("socket -1", EBADF, -1, &v4, sizeof v4, "x", 1);
	expect("no destination", EINVAL, fd, NULL, sizeof v4, "x", 1);
	expect("no length", EINVAL, fd, &v4, 0, "x", 1);
	expect("short IPv4", EINVAL, fd, &v4, sizeof v4 - 1, "x", 1);
	expect("short IPv6", EINVAL, fd, &v6, sizeof v4, "x", 1);
	expect("other family", EAFNOSUPPORT, fd, &other, sizeof other, "x", 1);
	expect("no buffer", EINVAL, fd, &v4, sizeof v4, NULL, 1);
	expect("huge buffer", EOPNOTSUPP, fd, &v4, sizeof v4, "x", (size_t)-1);
	expect("no daemon", ENOTCONN, fd, &v4, sizeof v4, NULL, 0);
	expect("no daemon, IPv6", ENOTCONN, fd, &v6, sizeof v6, "x", 1);
	return failures != 0;
}
