/* Real functions for what the DPDK headers define inline, and constants whose
 * macros bindgen cannot evaluate. Arguments and results are those of the
 * function named in the comment. */
#ifndef DTS_DPDK_SHIM_H
#define DTS_DPDK_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_flow.h>
#include <rte_gso.h>
#include <rte_hash.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_net.h>
#include <rte_ring.h>

/* Offsets in struct rte_mbuf. DTS_MBUF_TAG is hash.fdir.hi: it lies in the
 * first cache line, beside and not over the RSS hash, and only flow director
 * marks write to it, which this project never enables. */
static const size_t DTS_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr);
static const size_t DTS_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off);
static const size_t DTS_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs);
static const size_t DTS_MBUF_PORT = offsetof(struct rte_mbuf, port);
static const size_t DTS_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags);
static const size_t DTS_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len);
static const size_t DTS_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len);
static const size_t DTS_MBUF_RSS = offsetof(struct rte_mbuf, hash.rss);
static const size_t DTS_MBUF_TAG = offsetof(struct rte_mbuf, hash.fdir.hi);
static const size_t DTS_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len);
static const size_t DTS_MBUF_POOL = offsetof(struct rte_mbuf, pool);
static const size_t DTS_MBUF_NEXT = offsetof(struct rte_mbuf, next);
static const size_t DTS_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci);
static const size_t DTS_MBUF_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload);

/* Fields of rte_mbuf.tx_offload, in bits from its lowest one. */
static const uint32_t DTS_TX_L2_LEN_SHIFT = RTE_MBUF_L2_LEN_OFS;
static const uint32_t DTS_TX_L3_LEN_SHIFT = RTE_MBUF_L3_LEN_OFS;
static const uint32_t DTS_TX_L4_LEN_SHIFT = RTE_MBUF_L4_LEN_OFS;
static const uint32_t DTS_TX_TSO_SHIFT = RTE_MBUF_TSO_SEGSZ_OFS;
static const uint64_t DTS_TX_TSO_MASK = (1u << RTE_MBUF_TSO_SEGSZ_BITS) - 1;

static const uint64_t DTS_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t DTS_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t DTS_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t DTS_RX_IP_CKSUM_NONE = RTE_MBUF_F_RX_IP_CKSUM_NONE;
static const uint64_t DTS_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t DTS_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t DTS_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t DTS_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t DTS_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;
static const uint64_t DTS_RX_LRO = RTE_MBUF_F_RX_LRO;
static const uint64_t DTS_RX_VLAN = RTE_MBUF_F_RX_VLAN;
static const uint64_t DTS_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t DTS_TX_VLAN = RTE_MBUF_F_TX_VLAN;
static const uint64_t DTS_TX_IPV4 = RTE_MBUF_F_TX_IPV4;
static const uint64_t DTS_TX_IPV6 = RTE_MBUF_F_TX_IPV6;
static const uint64_t DTS_TX_IP_CKSUM = RTE_MBUF_F_TX_IP_CKSUM;
static const uint64_t DTS_TX_TCP_CKSUM = RTE_MBUF_F_TX_TCP_CKSUM;
static const uint64_t DTS_TX_UDP_CKSUM = RTE_MBUF_F_TX_UDP_CKSUM;
static const uint64_t DTS_TX_TCP_SEG = RTE_MBUF_F_TX_TCP_SEG;
/* What a buffer is, not what was found or is to be done. */
static const uint64_t DTS_MBUF_KIND = RTE_MBUF_F_EXTERNAL | RTE_MBUF_F_INDIRECT;

static const uint64_t DTS_ETH_RSS_IPV4 = RTE_ETH_RSS_IPV4;
static const uint64_t DTS_ETH_RSS_NONFRAG_IPV4_TCP = RTE_ETH_RSS_NONFRAG_IPV4_TCP;
static const uint64_t DTS_ETH_RSS_IPV6 = RTE_ETH_RSS_IPV6;
static const uint64_t DTS_ETH_RSS_NONFRAG_IPV6_TCP = RTE_ETH_RSS_NONFRAG_IPV6_TCP;
static const uint32_t DTS_ETH_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t DTS_ETH_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint64_t DTS_ETH_RX_OFFLOAD_IPV4_CKSUM = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DTS_ETH_RX_OFFLOAD_TCP_CKSUM = RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
static const uint64_t DTS_ETH_RX_OFFLOAD_UDP_CKSUM = RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
static const uint64_t DTS_ETH_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t DTS_ETH_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t DTS_ETH_RX_OFFLOAD_TCP_LRO = RTE_ETH_RX_OFFLOAD_TCP_LRO;
static const uint64_t DTS_ETH_RX_OFFLOAD_VLAN_STRIP = RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
static const uint64_t DTS_ETH_TX_OFFLOAD_VLAN_INSERT = RTE_ETH_TX_OFFLOAD_VLAN_INSERT;
static const uint64_t DTS_ETH_TX_OFFLOAD_UDP_CKSUM = RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
static const uint64_t DTS_ETH_TX_OFFLOAD_TCP_TSO = RTE_ETH_TX_OFFLOAD_TCP_TSO;
static const uint64_t DTS_ETH_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t DTS_ETH_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DTS_ETH_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;

static const uint32_t DTS_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t DTS_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE;
static const uint32_t DTS_ETH_NAME_MAX = RTE_ETH_NAME_MAX_LEN;
static const uint16_t DTS_MAX_ETHPORTS = RTE_MAX_ETHPORTS;
static const uint32_t DTS_HASH_BULK_MAX = RTE_HASH_LOOKUP_BULK_MAX;
static const uint32_t DTS_MAX_RING_SIZE = RTE_RING_SZ_MASK;
static const uint32_t DTS_RING_MP_SC_EXACT = RING_F_SC_DEQ | RING_F_EXACT_SZ;

/* rte_errno of the calling thread. */
int dts_errno(void);
/* rte_lcore_id: UINT32_MAX in a thread that the EAL does not know. */
uint32_t dts_lcore_id(void);
uint64_t dts_cycles(void);

/* rte_eth_rx_burst, rte_eth_tx_burst. */
uint16_t dts_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n);
uint16_t dts_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **pkts, uint16_t n);
/* rte_eth_link_get_nowait: 0 or a negative errno; `mbps` is UINT32_MAX where
 * the driver does not know the speed. */
int dts_eth_link(uint16_t port, bool *up, uint32_t *mbps);

/* rte_pktmbuf_alloc, rte_pktmbuf_alloc_bulk, rte_pktmbuf_free. */
struct rte_mbuf *dts_pktmbuf_alloc(struct rte_mempool *pool);
int dts_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **pkts, unsigned int n);
void dts_pktmbuf_free(struct rte_mbuf *m);
/* Frees whole packets, of any pools. */
void dts_pktmbuf_free_burst(struct rte_mbuf **pkts, unsigned int n);
/* rte_pktmbuf_prepend, _append, _adj, _trim, _chain, _linearize. */
void *dts_pktmbuf_prepend(struct rte_mbuf *m, uint16_t len);
void *dts_pktmbuf_append(struct rte_mbuf *m, uint16_t len);
void *dts_pktmbuf_adj(struct rte_mbuf *m, uint16_t len);
int dts_pktmbuf_trim(struct rte_mbuf *m, uint16_t len);
int dts_pktmbuf_chain(struct rte_mbuf *head, struct rte_mbuf *tail);
int dts_pktmbuf_linearize(struct rte_mbuf *m);
/* Moves bytes from later segments until the first holds `len`; segments that
 * run empty are freed. 0, or -1 (nothing changed) where the packet is shorter
 * or the first segment has no room. */
int dts_pktmbuf_pull(struct rte_mbuf *m, uint16_t len);
/* Cuts the packet to its first `len` bytes and frees the segments behind them; a
 * shorter packet stays as it is. `len` is at least 1. */
void dts_pktmbuf_truncate(struct rte_mbuf *m, uint32_t len);
/* True if the packet's last segment has its data in a buffer of its own, to which
 * nothing else refers. */
bool dts_pktmbuf_tail_exclusive(struct rte_mbuf *m);

/* The headers of a TCP or UDP packet that is no fragment. */
struct dts_headers {
	uint16_t l2; /* bytes of Ethernet header and VLAN tags */
	uint16_t l3; /* bytes of IP header with options or extension headers */
	uint16_t l4; /* bytes of TCP or UDP header */
	uint8_t version; /* 4 or 6 */
	uint8_t proto; /* 6 or 17 */
};
/* rte_net_get_ptype: false where the packet is nothing of the kind, or its
 * headers do not lie in the first segment. */
bool dts_pktmbuf_headers(const struct rte_mbuf *m, struct dts_headers *h);

/* rte_vlan_strip, rte_vlan_insert of the mbuf's vlan_tci: false where there is no
 * tag, or no room for one. */
bool dts_vlan_strip(struct rte_mbuf *m);
bool dts_vlan_insert(struct rte_mbuf *m);
/* Fills in what the offload flags of `m` need in its headers, and asks the
 * driver (rte_eth_tx_prepare): false where it cannot send `m`. */
bool dts_tx_prepare(uint16_t port, uint16_t queue, struct rte_mbuf *m);
/* rte_gso_segment of a TCP/IPv4 packet into segments of `size` payload bytes.
 * The headers go to buffers of `headers`, the payload is shared by buffers of
 * `indirect`. The number of packets in `out`, or a negative errno. */
int dts_gso_tcp4(struct rte_mbuf *m, const struct dts_headers *h, uint16_t size,
		 struct rte_mempool *headers, struct rte_mempool *indirect,
		 struct rte_mbuf **out, uint16_t n);

/* Copies `len` bytes from offset `off` of the packet; false where it is
 * shorter. */
bool dts_pktmbuf_copy_out(const struct rte_mbuf *m, uint32_t off, uint32_t len, void *out);
/* Usable bytes in front of the data of `m`. */
uint16_t dts_pktmbuf_headroom(const struct rte_mbuf *m);
/* Usable bytes behind the data of the last segment of `m`. */
uint16_t dts_pktmbuf_tailroom(const struct rte_mbuf *m);

/* The number of elements a pool was made with. */
unsigned int dts_mempool_size(const struct rte_mempool *pool);

/* rte_ring_mp_enqueue_burst, rte_ring_sc_dequeue_burst, rte_ring_count,
 * rte_ring_get_capacity. */
unsigned int dts_ring_enqueue_burst(struct rte_ring *r, struct rte_mbuf **pkts, unsigned int n);
unsigned int dts_ring_dequeue_burst(struct rte_ring *r, struct rte_mbuf **pkts, unsigned int n);
unsigned int dts_ring_count(const struct rte_ring *r);
unsigned int dts_ring_capacity(const struct rte_ring *r);

/* What a rule drops: frames with this Ethernet source, or, where `port` is not 0, TCP segments
 * to this port directly behind an untagged IPv4 (`version` 4) or IPv6 (6) header. */
struct dts_flow_what {
	uint8_t source[6];
	uint8_t version;
	uint16_t port;
};
/* Asks the device for a rule that drops what is received, counted if `count`: rte_flow_validate,
 * then rte_flow_create. NULL with rte_errno set, and `why` as the driver says it, or NULL. */
struct rte_flow *dts_flow_drop(uint16_t port, const struct dts_flow_what *what, bool count,
			       const char **why);
/* rte_flow_query for what the rule has dropped. 0 or a negative errno. */
int dts_flow_hits(uint16_t port, struct rte_flow *flow, uint64_t *hits);
/* rte_flow_destroy. */
int dts_flow_destroy(uint16_t port, struct rte_flow *flow);

/* Sets the RSS redirection table of `size` entries: entry i leads to queue
 * (i % period) * queues / period. rte_eth_dev_rss_reta_update. */
int dts_eth_spread(uint16_t port, uint16_t size, uint16_t period, uint16_t queues);

/* Sends all EAL log output to `sink`, one call per line or part of one.
 * 0 or a negative errno. `sink` must not log. */
typedef void (*dts_log_sink)(const char *text, size_t len);
int dts_log_open(dts_log_sink sink);

#endif
