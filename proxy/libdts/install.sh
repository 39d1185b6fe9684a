#!/bin/sh
# Installs libdts (shared, static), dts.h and dts.pc.
#
#   [DESTDIR=] [PREFIX=/usr/local] [LIBDIR=lib] [BUILD_DIR=target/release] install.sh
#
# BUILD_DIR is where cargo left libdts.so and libdts.a; build them with
#   cargo build --release -p libdts
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-lib}
build=${BUILD_DIR:-${CARGO_TARGET_DIR:-$root/target}/release}
dest=${DESTDIR:-}$prefix

# The version of the workspace, which this crate inherits.
version=$(sed -n '/^\[workspace\.package\]/,/^\[/s/^version *= *"\(.*\)"/\1/p' "$root/Cargo.toml")
if [ -z "$version" ]; then
	echo "install.sh: no version in $root/Cargo.toml" >&2
	exit 1
fi
major=${version%%.*}
for artefact in libdts.so libdts.a; do
	if [ ! -f "$build/$artefact" ]; then
		echo "install.sh: $build/$artefact: not there (cargo build --release -p libdts)" >&2
		exit 1
	fi
done

install -d "$dest/include" "$dest/$libdir/pkgconfig"
install -m 644 "$here/include/dts.h" "$dest/include/dts.h"
install -m 755 "$build/libdts.so" "$dest/$libdir/libdts.so.$version"
ln -sf "libdts.so.$version" "$dest/$libdir/libdts.so.$major"
ln -sf "libdts.so.$major" "$dest/$libdir/libdts.so"
install -m 644 "$build/libdts.a" "$dest/$libdir/libdts.a"
sed -e "s|@PREFIX@|$prefix|" -e "s|@LIBDIR@|$libdir|" -e "s|@VERSION@|$version|" \
	"$here/dts.pc.in" >"$dest/$libdir/pkgconfig/dts.pc"
chmod 644 "$dest/$libdir/pkgconfig/dts.pc"
