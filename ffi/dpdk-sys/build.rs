//! Finds libdpdk with pkg-config, binds an exact list of its items and compiles
//! the shim for its inline functions.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// Functions that DPDK's shared libraries export. Everything that is `static
/// inline` in the headers comes from `shim.c` under a `dts_` name.
const FUNCTIONS: &[&str] = &[
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_cleanup",
    "rte_eal_init",
    "rte_eth_allmulticast_disable",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_is_valid_port",
    "rte_eth_dev_rx_intr_ctl_q_get_fd",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_iterator_cleanup",
    "rte_eth_iterator_init",
    "rte_eth_iterator_next",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_stats_reset",
    "rte_eth_tx_queue_setup",
    "rte_hash_add_key_with_hash",
    "rte_hash_create",
    "rte_hash_free",
    "rte_hash_lookup_with_hash_bulk",
    "rte_log_set_global_level",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_openlog_stream",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_ring_create",
    "rte_ring_free",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
];

/// Structures whose fields the safe layer fills in or reads.
const TYPES: &[&str] = &[
    "rte_dev_iterator",
    "rte_eth_conf",
    "rte_eth_dev_info",
    "rte_eth_stats",
    "rte_ether_addr",
    "rte_hash_parameters",
];

/// Structures that are only passed by pointer. An `rte_mbuf`'s fields are
/// reached through the `DTS_MBUF_*` offsets, because the nesting of its
/// anonymous members differs between releases and their offsets do not.
const OPAQUE: &[&str] = &[
    "_IO_FILE",
    "rte_bus",
    "rte_class",
    "rte_device",
    "rte_hash",
    "rte_flow",
    "rte_mbuf",
    "rte_mempool",
    "rte_memzone",
    "rte_ring",
];

fn main() {
    for file in ["build.rs", "shim.c", "shim.h"] {
        println!("cargo:rerun-if-changed={file}");
    }
    // `probe` also emits the link flags. Drivers are not among them: with
    // shared libraries the EAL loads them from its plug-in directory.
    pkg_config::Config::new()
        .atleast_version("22.11")
        .statik(false)
        .probe("libdpdk")
        .unwrap_or_else(|e| panic!("libdpdk (22.11 or newer) is needed: {e}"));
    // The crate keeps include paths and defines only; `-include rte_config.h`
    // and `-march` are as necessary, so the flags are read once more, raw.
    let cflags = raw_cflags();

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(&cflags)
        .allowlist_function("dts_.*")
        .allowlist_var("DTS_.*")
        .allowlist_recursively(true)
        .derive_debug(false)
        .derive_default(false)
        .generate_comments(false)
        .layout_tests(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    builder
        .generate()
        .unwrap_or_else(|e| panic!("bindgen over the DPDK headers: {e}"))
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");

    let mut build = cc::Build::new();
    build.file("shim.c").warnings(true).opt_level(2);
    for flag in &cflags {
        build.flag(flag);
    }
    build.compile("dts_dpdk_shim");
}

/// Every compiler flag that pkg-config gives for libdpdk, in order.
fn raw_cflags() -> Vec<String> {
    let tool = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(&tool)
        .args(["--cflags", "libdpdk"])
        .output()
        .unwrap_or_else(|e| panic!("{}: {e}", tool.display()));
    assert!(
        output.status.success(),
        "{} --cflags libdpdk failed",
        tool.display()
    );
    String::from_utf8(output.stdout)
        .expect("compiler flags are text")
        .split_whitespace()
        // Third-party headers are not ours to warn about.
        .map(|f| {
            f.strip_prefix("-I")
                .map_or_else(|| f.to_owned(), |d| format!("-isystem{d}"))
        })
        .collect()
}
