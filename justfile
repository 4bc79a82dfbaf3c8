# Short names for what one does often. None is needed: each says what it runs.

# What CI runs.
check:
    cargo xtask check

# The tests, as README.md says.
test *arguments:
    cargo test --release --workspace {{ arguments }}

# The house rules alone.
tidy:
    cargo xtask tidy

# Speed of the coding pipeline, of the store, and of a whole pool.
bench:
    cargo bench --package potluck-dag
    cargo bench --package potluck-store
    cargo run --release -- bench

# The main job in one command.
demo *arguments:
    cargo run --release -- demo {{ arguments }}

# Every decoder, and every protocol's server side, against hostile bytes, some seconds each. Needs a C++ compiler besides Rust.
fuzz seconds="30":
    ./fuzz/run {{ seconds }}

# A pool of real processes in network namespaces, some minutes of everything going wrong. Needs root, iproute2 and nftables.
chaos minutes="30":
    cargo build --release --package potluck
    cargo run --release --package potluck-chaos -- --minutes {{ minutes }}

# Whole pools under every fault, from seeds: `just sim 0..1000`.
sim seeds="0..100" days="30":
    cargo run --package potluck-sim --release -- --seeds {{ seeds }} --nodes 12 --days {{ days }}
