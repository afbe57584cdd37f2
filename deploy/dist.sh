#!/bin/sh
# Makes target/dist/larder-VERSION-TARGET.tar.gz, whose program needs nothing on the machine that runs it:
# linked against musl where that target is installed, else against glibc, statically. Where neither links, the
# program needs the C library of the system, and the name of the archive says so. Installs nothing.
set -eu
cd "$(dirname "$0")/.."

profile="${PROFILE:-release}"
arch="$(uname -m)"
out="target/dist"
version="$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)"
directory="$profile"
[ "$profile" != dev ] || directory=debug

# Builds for target $1 with the compiler flags $2.
build() {
    upper="$(echo "$profile" | tr '[:lower:]-' '[:upper:]_')"
    env "CARGO_PROFILE_${upper}_STRIP=symbols" RUSTFLAGS="$2" CARGO_TARGET_DIR="$out/build" \
        cargo build --locked --profile "$profile" --bin larder --target "$1"
}

has_musl() {
    command -v musl-gcc >/dev/null || { echo "no musl-gcc (Debian: musl-tools)"; return 1; }
    rustup target list --installed 2>/dev/null | grep -qx "$1" ||
        { echo "the Rust target $1 is not installed (rustup target add $1)"; return 1; }
}

musl="$arch-unknown-linux-musl"
gnu="$arch-unknown-linux-gnu"
name="larder-$version"
mkdir -p "$out"
if has_musl "$musl" && CC=musl-gcc build "$musl" "-C target-feature=+crt-static"; then
    target="$musl" name="$name-$arch-linux-static"
elif build "$gnu" "-C target-feature=+crt-static"; then
    target="$gnu" name="$name-$arch-linux-static"
else
    echo "no static program links here: the program will need the C library of the system"
    build "$gnu" ""
    target="$gnu" name="$name-$arch-linux-gnu"
fi

program="$out/build/$target/$directory/larder"
rm -rf "${out:?}/$name"
mkdir -p "$out/$name"
cp "$program" README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT proxy.yaml "$out/$name/"
cp -R docs deploy/systemd "$out/$name/"
env -i "$out/$name/larder" --version
tar --create --gzip --file "$out/$name.tar.gz" --directory "$out" --sort=name --owner=0 --group=0 \
    --numeric-owner --mtime="@$(git log -1 --format=%ct 2>/dev/null || echo 0)" "$name"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256")

echo
echo "made $out/$name.tar.gz ($(du -h "$out/$name.tar.gz" | cut -f1)), for $target"
needs="$(ldd "$program" 2>&1 || true)"
case "$needs" in
    *"not a dynamic executable"* | *"statically linked"*) echo "its program is static: it needs no library" ;;
    *) printf 'its program needs:\n%s\n' "$needs" ;;
esac
