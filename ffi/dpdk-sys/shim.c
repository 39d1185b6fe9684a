#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <string.h>

int dts_errno(void) { return rte_errno; }

uint32_t dts_lcore_id(void) { return rte_lcore_id(); }

uint16_t dts_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n)
{
	return rte_eth_rx_burst(port, queue, pkts, n);
}

uint16_t dts_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n)
{
	return rte_eth_tx_burst(port, queue, pkts, n);
}

int dts_eth_link(uint16_t port, bool *up, uint32_t *mbps)
{
	struct rte_eth_link link;
	int ret;

	memset(&link, 0, sizeof(link));
	ret = rte_eth_link_get_nowait(port, &link);
	*up = link.link_status == RTE_ETH_LINK_UP;
	*mbps = link.link_speed;
	return ret;
}

struct rte_mbuf *dts_pktmbuf_alloc(struct rte_mempool *pool) { return rte_pktmbuf_alloc(pool); }

int dts_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned int n)
{
	return rte_pktmbuf_alloc_bulk(pool, pkts, n);
}

void dts_pktmbuf_free(struct rte_mbuf *m) { rte_pktmbuf_free(m); }

void *dts_pktmbuf_prepend(struct rte_mbuf *m, uint16_t len) { return rte_pktmbuf_prepend(m, len); }

void *dts_pktmbuf_append(struct rte_mbuf *m, uint16_t len) { return rte_pktmbuf_append(m, len); }

void *dts_pktmbuf_adj(struct rte_mbuf *m, uint16_t len) { return rte_pktmbuf_adj(m, len); }

int dts_pktmbuf_trim(struct rte_mbuf *m, uint16_t len) { return rte_pktmbuf_trim(m, len); }

int dts_pktmbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail)
{
	return rte_pktmbuf_chain(head, tail);
}

int dts_pktmbuf_linearize(struct rte_mbuf *m) { return rte_pktmbuf_linearize(m); }

int dts_pktmbuf_pull(struct rte_mbuf *m, uint16_t len)
{
	uint16_t want;

	if (m->data_len >= len)
		return 0;
	want = len - m->data_len;
	if (m->pkt_len < len || rte_pktmbuf_tailroom(m) < want)
		return -1;
	while (want > 0) {
		struct rte_mbuf *next = m->next;
		uint16_t n = RTE_MIN(want, next->data_len);

		memcpy(rte_pktmbuf_mtod_offset(m, char *, m->data_len),
		       rte_pktmbuf_mtod(next, const char *), n);
		m->data_len += n;
		next->data_off += n;
		next->data_len -= n;
		want -= n;
		if (next->data_len == 0) {
			m->next = next->next;
			m->nb_segs--;
			next->next = NULL;
			next->nb_segs = 1;
			rte_pktmbuf_free_seg(next);
		}
	}
	return 0;
}

bool dts_pktmbuf_copy_out(const struct rte_mbuf *m, uint32_t off, uint32_t len, void *out)
{
	const void *at;

	/* rte_pktmbuf_read adds the two in 32 bits. */
	if (off > m->pkt_len || len > m->pkt_len - off)
		return false;
	at = rte_pktmbuf_read(m, off, len, out);
	if (at == NULL)
		return false;
	if (at != out)
		memcpy(out, at, len);
	return true;
}

uint16_t dts_pktmbuf_headroom(const struct rte_mbuf *m) { return rte_pktmbuf_headroom(m); }

uint16_t dts_pktmbuf_tailroom(const struct rte_mbuf *m)
{
	return rte_pktmbuf_tailroom(rte_pktmbuf_lastseg((struct rte_mbuf *)(uintptr_t)m));
}

unsigned int dts_mempool_size(const struct rte_mempool *pool) { return pool->size; }

unsigned int dts_ring_enqueue_burst(struct rte_ring *r, struct rte_mbuf **pkts, unsigned int n)
{
	return rte_ring_mp_enqueue_burst(r, (void **)pkts, n, NULL);
}

unsigned int dts_ring_dequeue_burst(struct rte_ring *r, struct rte_mbuf **pkts, unsigned int n)
{
	return rte_ring_sc_dequeue_burst(r, (void **)pkts, n, NULL);
}

unsigned int dts_ring_count(const struct rte_ring *r) { return rte_ring_count(r); }

unsigned int dts_ring_capacity(const struct rte_ring *r) { return rte_ring_get_capacity(r); }

static dts_log_sink log_sink;

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	RTE_SET_USED(cookie);
	log_sink(text, len);
	return len;
}

int dts_log_open(dts_log_sink sink)
{
	static const cookie_io_functions_t functions = { .write = log_write };
	FILE *stream;

	log_sink = sink;
	stream = fopencookie(NULL, "w", functions);
	if (stream == NULL)
		return -errno;
	setvbuf(stream, NULL, _IOLBF, BUFSIZ);
	/* The stream lives as long as the process: any EAL thread may log. */
	return rte_openlog_stream(stream);
}
