#define _GNU_SOURCE
#include "shim.h"

#include <errno.h>
#include <string.h>

int dts_errno(void) { return rte_errno; }

uint32_t dts_lcore_id(void) { return rte_lcore_id(); }

uint64_t dts_cycles(void) { return rte_rdtsc(); }

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

void dts_pktmbuf_free_burst(struct rte_mbuf **pkts, unsigned int n)
{
	/* Most bursts are of one pool, of whole packets that nobody shares: then their headers'
	 * second lines need not be touched (rte_mbuf_raw_free asks for no more). */
	const uint64_t one = (uint64_t)1 << 16 | (uint64_t)1 << 32, both = (uint64_t)UINT32_MAX << 16;
	struct rte_mempool *pool = n > 0 ? pkts[0]->pool : NULL;
	uint64_t strange = 0;
	unsigned int i;

	/* References and segments lie side by side, behind the data's offset. */
	RTE_BUILD_BUG_ON(offsetof(struct rte_mbuf, refcnt) != offsetof(struct rte_mbuf, data_off) + 2);
	RTE_BUILD_BUG_ON(offsetof(struct rte_mbuf, nb_segs) != offsetof(struct rte_mbuf, data_off) + 4);
	for (i = 0; i < n; i++) {
		const struct rte_mbuf *m = pkts[i];
		uint64_t counts;

		memcpy(&counts, &m->data_off, sizeof(counts));
		strange |= ((counts ^ one) & both) | (m->ol_flags & DTS_MBUF_KIND) |
			((uintptr_t)m->pool ^ (uintptr_t)pool);
	}
	if (strange)
		rte_pktmbuf_free_bulk(pkts, n);
	else if (n > 0)
		rte_mempool_put_bulk(pool, (void **)pkts, n);
}

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

void dts_pktmbuf_truncate(struct rte_mbuf *m, uint32_t len)
{
	struct rte_mbuf *last = m;
	uint32_t left = len;
	uint16_t segments = 1;

	if (len == 0 || len >= m->pkt_len)
		return;
	while (left > last->data_len) {
		left -= last->data_len;
		last = last->next;
		segments++;
	}
	last->data_len = left;
	rte_pktmbuf_free(last->next);
	last->next = NULL;
	m->nb_segs = segments;
	m->pkt_len = len;
}

bool dts_pktmbuf_tail_exclusive(struct rte_mbuf *m)
{
	const struct rte_mbuf *last = rte_pktmbuf_lastseg(m);

	return RTE_MBUF_DIRECT(last) && rte_mbuf_refcnt_read(last) == 1;
}

bool dts_pktmbuf_headers(const struct rte_mbuf *m, struct dts_headers *h)
{
	struct rte_net_hdr_lens lens = { 0 };
	uint32_t type = rte_net_get_ptype(m, &lens,
			RTE_PTYPE_L2_MASK | RTE_PTYPE_L3_MASK | RTE_PTYPE_L4_MASK);

	switch (type & RTE_PTYPE_L4_MASK) {
	case RTE_PTYPE_L4_TCP:
		h->proto = 6;
		break;
	case RTE_PTYPE_L4_UDP:
		h->proto = 17;
		break;
	default:
		return false;
	}
	/* Every type of IPv4 has this bit, and every one of IPv6 the other. */
	if (RTE_ETH_IS_IPV4_HDR(type))
		h->version = 4;
	else if (RTE_ETH_IS_IPV6_HDR(type))
		h->version = 6;
	else
		return false;
	h->l2 = lens.l2_len;
	h->l3 = lens.l3_len;
	h->l4 = lens.l4_len;
	return h->l4 >= (h->proto == 6 ? 20 : 8) &&
		(uint32_t)h->l2 + h->l3 + h->l4 <= m->data_len;
}

bool dts_vlan_strip(struct rte_mbuf *m)
{
	return m->data_len >= RTE_ETHER_HDR_LEN + RTE_VLAN_HLEN && rte_vlan_strip(m) == 0;
}

bool dts_vlan_insert(struct rte_mbuf *m) { return rte_vlan_insert(&m) == 0; }

bool dts_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf *m)
{
	return rte_net_intel_cksum_prepare(m) == 0 && rte_eth_tx_prepare(port, queue, &m, 1) == 1;
}

int dts_gso_tcp4(struct rte_mbuf *m, const struct dts_headers *h, uint16_t size,
		 struct rte_mempool *headers, struct rte_mempool *indirect,
		 struct rte_mbuf **out, uint16_t n)
{
	const struct rte_gso_ctx ctx = {
		.direct_pool = headers,
		.indirect_pool = indirect,
		.gso_types = RTE_ETH_TX_OFFLOAD_TCP_TSO,
		.gso_size = h->l2 + h->l3 + h->l4 + size,
	};
	uint16_t end = h->l2 + h->l3 + h->l4;

	/* A first segment that ends with the headers would give an empty one. */
	if (m->data_len == end && dts_pktmbuf_pull(m, end + 1) != 0)
		return -ENOSPC;
	m->l2_len = h->l2;
	m->l3_len = h->l3;
	m->l4_len = h->l4;
	m->ol_flags = (m->ol_flags & DTS_MBUF_KIND) | RTE_MBUF_F_TX_TCP_SEG | RTE_MBUF_F_TX_IPV4;
	return rte_gso_segment(m, &ctx, out, n);
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

struct rte_flow *dts_flow_drop(uint16_t port, const struct dts_flow_what *what, bool count,
			       const char **why)
{
	const struct rte_flow_attr attr = {.ingress = 1};
	struct rte_flow_item_eth eth, eth_mask;
	struct rte_flow_item_tcp tcp, tcp_mask;
	struct rte_flow_item pattern[4];
	const struct rte_flow_action_count counter = {0};
	struct rte_flow_action actions[3];
	struct rte_flow_error error;
	struct rte_flow *flow;
	unsigned int n = 0;

	memset(&eth, 0, sizeof(eth));
	memset(&eth_mask, 0, sizeof(eth_mask));
	memset(&tcp, 0, sizeof(tcp));
	memset(&tcp_mask, 0, sizeof(tcp_mask));
	memset(pattern, 0, sizeof(pattern));
	memset(actions, 0, sizeof(actions));
	memset(&error, 0, sizeof(error));
	pattern[0].type = RTE_FLOW_ITEM_TYPE_ETH;
	pattern[0].spec = &eth;
	pattern[0].mask = &eth_mask;
	if (what->port == 0) {
		memcpy(&eth.hdr.src_addr, what->source, sizeof(what->source));
		memset(&eth_mask.hdr.src_addr, 0xff, sizeof(what->source));
		pattern[1].type = RTE_FLOW_ITEM_TYPE_END;
	} else {
		/* The type as well: without it tagged frames would match. */
		bool v4 = what->version == 4;

		eth.hdr.ether_type =
			rte_cpu_to_be_16(v4 ? RTE_ETHER_TYPE_IPV4 : RTE_ETHER_TYPE_IPV6);
		eth_mask.hdr.ether_type = 0xffff;
		tcp.hdr.dst_port = rte_cpu_to_be_16(what->port);
		tcp_mask.hdr.dst_port = 0xffff;
		pattern[1].type = v4 ? RTE_FLOW_ITEM_TYPE_IPV4 : RTE_FLOW_ITEM_TYPE_IPV6;
		pattern[2].type = RTE_FLOW_ITEM_TYPE_TCP;
		pattern[2].spec = &tcp;
		pattern[2].mask = &tcp_mask;
		pattern[3].type = RTE_FLOW_ITEM_TYPE_END;
	}
	if (count) {
		actions[n].type = RTE_FLOW_ACTION_TYPE_COUNT;
		actions[n++].conf = &counter;
	}
	actions[n++].type = RTE_FLOW_ACTION_TYPE_DROP;
	actions[n].type = RTE_FLOW_ACTION_TYPE_END;

	*why = NULL;
	flow = NULL;
	if (rte_flow_validate(port, &attr, pattern, actions, &error) == 0)
		flow = rte_flow_create(port, &attr, pattern, actions, &error);
	if (flow == NULL)
		*why = error.message;
	return flow;
}

int dts_flow_hits(uint16_t port, struct rte_flow *flow, uint64_t *hits)
{
	const struct rte_flow_action_count counter = {0};
	const struct rte_flow_action actions[] = {
		{.type = RTE_FLOW_ACTION_TYPE_COUNT, .conf = &counter},
		{.type = RTE_FLOW_ACTION_TYPE_END},
	};
	struct rte_flow_query_count got;
	struct rte_flow_error error;
	int ret;

	memset(&got, 0, sizeof(got));
	ret = rte_flow_query(port, flow, actions, &got, &error);
	*hits = got.hits;
	return ret;
}

int dts_flow_destroy(uint16_t port, struct rte_flow *flow)
{
	struct rte_flow_error error;

	return rte_flow_destroy(port, flow, &error);
}

int dts_eth_spread(uint16_t port, uint16_t size, uint16_t period, uint16_t queues)
{
	struct rte_eth_rss_reta_entry64 table[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE];
	unsigned int i;

	if (size == 0 || size > RTE_ETH_RSS_RETA_SIZE_512 || period == 0 || queues == 0)
		return -EINVAL;
	memset(table, 0, sizeof(table));
	for (i = 0; i < size; i++) {
		struct rte_eth_rss_reta_entry64 *entry = &table[i / RTE_ETH_RETA_GROUP_SIZE];

		entry->mask |= RTE_BIT64(i % RTE_ETH_RETA_GROUP_SIZE);
		entry->reta[i % RTE_ETH_RETA_GROUP_SIZE] = (i % period) * queues / period;
	}
	return rte_eth_dev_rss_reta_update(port, table, size);
}
