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
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
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

static const uint64_t DTS_RX_IP_CKSUM_MASK = RTE_MBUF_F_RX_IP_CKSUM_MASK;
static const uint64_t DTS_RX_IP_CKSUM_GOOD = RTE_MBUF_F_RX_IP_CKSUM_GOOD;
static const uint64_t DTS_RX_IP_CKSUM_BAD = RTE_MBUF_F_RX_IP_CKSUM_BAD;
static const uint64_t DTS_RX_IP_CKSUM_NONE = RTE_MBUF_F_RX_IP_CKSUM_NONE;
static const uint64_t DTS_RX_L4_CKSUM_MASK = RTE_MBUF_F_RX_L4_CKSUM_MASK;
static const uint64_t DTS_RX_L4_CKSUM_GOOD = RTE_MBUF_F_RX_L4_CKSUM_GOOD;
static const uint64_t DTS_RX_L4_CKSUM_BAD = RTE_MBUF_F_RX_L4_CKSUM_BAD;
static const uint64_t DTS_RX_L4_CKSUM_NONE = RTE_MBUF_F_RX_L4_CKSUM_NONE;
static const uint64_t DTS_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;

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
static const uint64_t DTS_ETH_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t DTS_ETH_TX_OFFLOAD_IPV4_CKSUM = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM;
static const uint64_t DTS_ETH_TX_OFFLOAD_TCP_CKSUM = RTE_ETH_TX_OFFLOAD_TCP_CKSUM;

static const uint32_t DTS_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t DTS_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE;
static const uint32_t DTS_ETH_NAME_MAX = RTE_ETH_NAME_MAX_LEN;
static const uint16_t DTS_MAX_ETHPORTS = RTE_MAX_ETHPORTS;
static const uint32_t DTS_MAX_RING_SIZE = RTE_RING_SZ_MASK;
static const uint32_t DTS_RING_MP_SC_EXACT = RING_F_SC_DEQ | RING_F_EXACT_SZ;

/* rte_errno of the calling thread. */
int dts_errno(void);
/* rte_lcore_id: UINT32_MAX in a thread that the EAL does not know. */
uint32_t dts_lcore_id(void);

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

/* Sends all EAL log output to `sink`, one call per line or part of one.
 * 0 or a negative errno. `sink` must not log. */
typedef void (*dts_log_sink)(const char *text, size_t len);
int dts_log_open(dts_log_sink sink);

#endif
