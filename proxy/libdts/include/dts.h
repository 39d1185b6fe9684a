/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DTS_H
#define DTS_H

#include <stddef.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Asks the DTS daemon of this node to move a live TCP connection to another
 * node, whose application will answer the client.
 *
 *   socket       the connection: accepted on the proxy port of a service, and
 *                never written to
 *   dest         AF_INET or AF_INET6: the destination node's address on the
 *                link, and the port of its application
 *   addrlen      size of *dest
 *   request_buf  every byte that was read from the socket, from the first one
 *                on; nothing may be left out, and nothing added
 *   buflen       how many; may be 0. What has arrived but was not read needs no
 *                attention: the daemon moves it too.
 *
 * Returns 0 when the destination has the connection. Close the socket then and
 * do nothing else with it; closing is silent on the wire.
 *
 * Returns -1 and sets errno otherwise. Unless errno is ECONNABORTED, the socket
 * and its unread data are exactly as before the call.
 *
 *   another destination may be tried; no request is executed twice:
 *     ECONNREFUSED   the destination refused
 *     EHOSTUNREACH   the destination is dead or is no node of the cluster
 *     ETIMEDOUT      the destination did not answer in time, and has confirmed
 *                    that it has not given the request to its application
 *
 *   the outcome is unknown; close the socket, do NOT repeat the request:
 *     ECONNABORTED   the destination (or the daemon) died in the middle. The
 *                    daemon resets the client if it cannot find out.
 *
 *   this connection cannot be moved now:
 *     EOPNOTSUPP     not handed over by this daemon, not TCP, bytes missing or
 *                    too many in request_buf, urgent data, data was written to
 *                    it, or the request is too large (above 128 KiB always)
 *     EBUSY          a handover of it is under way, or the daemon is at its
 *                    limit: try again later
 *
 *   a fault of the caller or of the set-up:
 *     EINVAL         dest is NULL, addrlen too small, or request_buf is NULL
 *                    while buflen is not 0
 *     EAFNOSUPPORT   dest is neither AF_INET nor AF_INET6
 *     EBADF          socket is no open descriptor
 *     EACCES         this user may not ask the daemon
 *     ENOTCONN       no daemon listens at the socket
 *     EPROTO         the daemon speaks another version of the protocol
 *     ETOOMANYREFS, EMFILE
 *                    too many descriptors are on their way
 *
 * The call blocks until the outcome is known, as a rule some hundred
 * microseconds, at most 75 seconds. It may be called from any number of
 * threads; each keeps one connection to the daemon, close-on-exec, and makes a
 * new one after fork(). Signals do not interrupt it, and it raises none.
 *
 * Environment: DTS_RPC_SOCKET, path of the daemon's socket, read at a thread's
 * first call; /run/dts/rpc.sock when it is not set. It is trusted: do not call
 * this from a set-user-ID program without clearing it.
 */
int request_handover(int socket, const struct sockaddr *dest, socklen_t addrlen,
		     const char *request_buf, size_t buflen);

#ifdef __cplusplus
}
#endif

#endif
