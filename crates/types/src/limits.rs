//! Every bound of the system, with where its number comes from. Nothing queues, caches, retries or accepts
//! without one of these.

use std::time::Duration;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Chunk sizes: the larger a chunk, the fewer records per terabyte; the smaller, the better dedup and ranges.
/// A mean of 1 MiB keeps a terabyte at a million stripes, and one stripe's work in a core's cache.
pub const CHUNK_BYTES_MIN: usize = 512 * KIB;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_AVG: usize = MIB;
/// See [`CHUNK_BYTES_MIN`].
pub const CHUNK_BYTES_MAX: usize = 4 * MIB;

/// A sealed frame's plaintext. The unit that a range read must open: small beside a chunk, large beside its tag.
pub const FRAME_BYTES: usize = 64 * KIB;
/// The AES-GCM tag that each frame adds.
pub const FRAME_TAG_BYTES: usize = 16;

/// The most bytes that one piece of plaintext (a chunk, a pack of small files, a manifest node) has once sealed.
pub const SEALED_BYTES_MAX: usize = CHUNK_BYTES_MAX + (CHUNK_BYTES_MAX / FRAME_BYTES) * FRAME_TAG_BYTES;

/// Content that fits in this once sealed lives in its metadata entry and makes no stripe.
pub const INLINE_SEALED_BYTES_MAX: usize = 4 * KIB;
/// Pieces up to this are copied (*k* = 1) rather than coded: below it, headers and syncs cost more than copies.
pub const REPLICATE_SEALED_BYTES_MAX: usize = 32 * KIB;

/// Children of a manifest node. A node of 1,024 references stays near 100 KiB, and three levels hold 10^9 chunks.
pub const MANIFEST_CHILDREN_MAX: usize = 1024;
/// Bytes of a manifest node: 1,024 children of 112 bytes each at most.
pub const MANIFEST_NODE_BYTES_MAX: usize = 128 * KIB;
/// Levels of a manifest: 1,024^6 chunks is more than a `u64` counts bytes for.
pub const MANIFEST_DEPTH_MAX: u8 = 6;

/// Shards of a stripe, data and parity together: past 20 the gain in overhead is under 5 % while each read asks more peers.
pub const SHARDS_MAX: usize = 20;
/// Shard payloads are padded to a multiple of this, the unit of the coder's SIMD kernels.
pub const SHARD_ALIGN_BYTES: usize = 64;
/// The largest shard payload: a whole sealed piece, when *k* = 1.
pub const SHARD_BYTES_MAX: usize = SEALED_BYTES_MAX.next_multiple_of(SHARD_ALIGN_BYTES);
/// The largest encoded descriptor: 20 hashes and a few numbers.
pub const DESCRIPTOR_BYTES_MAX: usize = KIB;

/// One control message, and the header of a data message. The largest is a batch of log entries.
pub const MESSAGE_BYTES_MAX: usize = 8 * MIB;
/// Log entries that one append carries at most, by count and by size.
pub const APPEND_ENTRIES_MAX: usize = 1024;
/// See [`APPEND_ENTRIES_MAX`].
pub const APPEND_BYTES_MAX: usize = 4 * MIB;
/// Bytes of one log entry: an inline file, its path, and room for 1,024 pinned stripes.
pub const ENTRY_BYTES_MAX: usize = 128 * KIB;
/// Bytes of one signed record (a member, a grant, a vote), unless its type says otherwise.
pub const RECORD_BYTES_MAX: usize = ENTRY_BYTES_MAX;
/// Bytes of the record by which a person's key is replaced: it names some three hundred machines, and goes by gossip.
pub const ROTATION_BYTES_MAX: usize = 60 * KIB;
/// Keys that one person may have had.
pub const USER_KEYS_MAX: usize = 64;
/// Bytes of one record of a space's charter, with its signature: an epoch for some three hundred people.
pub const CHARTER_RECORD_BYTES_MAX: usize = 48 * KIB;
/// People who may read one space: each epoch has a key for every one of them, and fits a record.
pub const SPACE_READERS_MAX: usize = 300;
/// Bytes of all records of one space's charter.
pub const CHARTER_BYTES_MAX: usize = 4 * MIB;
/// Bytes of charters that are kept in memory as they were read.
pub const CHARTERS_BYTES_MAX: usize = 4 * CHARTER_BYTES_MAX;
/// Spaces that one person may found, beside their private one.
pub const SPACES_PER_USER_MAX: usize = 1000;
/// Spaces of one person whose data may not be everywhere, with those of which that was said before. Every member keeps what is said of that.
pub const RESIDENCES_PER_USER_MAX: usize = 32;
/// Bytes of what is said of one of them: eight regions, and what shows whose the space is.
pub const RESIDENCE_BYTES_MAX: usize = 1200;
/// Regions that the data of one space may be in.
pub const REGIONS_MAX: usize = 8;
/// Stripes that one log entry pins or unpins at most.
pub const PINS_PER_ENTRY_MAX: usize = 1024;

/// Full membership is kept up to this many nodes.
pub const POOL_NODES_MAX: usize = 1000;
/// Addresses that a node announces at most.
pub const ADDRESSES_MAX: usize = 16;
/// Bytes of one address as text: a relayed multiaddr with two peer ids and a long host name has about 250.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Members that a node says it doubts: more than half of a pool that can be trusted at all will hardly be, and it must fit beside the addresses.
pub const DOUBTS_MAX: usize = 32;
/// Bytes of a pool's name.
pub const POOL_NAME_BYTES_MAX: usize = 64;
/// Characters of a ticket as typed or pasted: 16 of the longest addresses in base32 have 6,700, the rest is white space.
pub const TICKET_TEXT_BYTES_MAX: usize = 16 * KIB;
/// Characters of a link as typed or pasted: it has 106, the rest is white space.
pub const LINK_TEXT_BYTES_MAX: usize = KIB;
/// Files that one link shows: who opens it has all their names and references in memory.
pub const LINK_ENTRIES_MAX: usize = 100_000;
/// Files that one comparison of what there is with what there was tells of.
pub const DIFFERENCES_MAX: usize = 100_000;
/// Machines that may read by a link whose readers are counted.
pub const LINK_READERS_MAX: u32 = 1000;
/// Members whose addresses a recovery kit keeps: enough that one is still there years later.
pub const KIT_MEMBERS_MAX: usize = 64;
/// Bytes of a recovery kit's file: 64 members with 16 of the longest addresses, in base64, have 360 KiB.
pub const KIT_BYTES_MAX: usize = 512 * KIB;
/// Streams that one peer may have open towards us at once; more are refused and wait at the sender.
pub const STREAMS_PER_PEER_MAX: usize = 64;
/// Bytes of requests and replies that one peer may have in our memory at once: a full window of the largest
/// shards, and a batch of log entries.
pub const PEER_BYTES_IN_FLIGHT_MAX: usize = 8 * SHARD_BYTES_MAX + MESSAGE_BYTES_MAX;
/// Connections to one peer: one a transport, and one by a relay, each twice while both ends dial.
pub const CONNECTIONS_PER_PEER_MAX: u32 = 6;
/// Connections between others that one relay carries: each costs it two streams with 8 KiB of buffer at either end, and what these are given
/// room for in flight.
pub const RELAY_CIRCUITS_MAX: usize = 512;
/// Those of them that have one member at an end.
pub const RELAY_CIRCUITS_PER_PEER_MAX: usize = 128;

/// How long a peer may send nothing of what it was asked for before another is asked too.
pub const HEDGE_DELAY: Duration = Duration::from_millis(500);
/// How long a peer may take for all of it before another is asked too: one that sends a byte now and then costs a reader no more than this.
pub const SLOW_DELAY: Duration = Duration::from_secs(20);
/// How long a request may go without anything moving before it is given up. What moves at a time is 128 KiB at most, so that a peer gets
/// no less than 6 KiB a second: a share of the narrowest way.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a dial may take.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Stripes that one write has under way at once: enough to hide a sync behind encoding, few enough that
/// 16 stripes of 4 MiB coded twice over stay under 200 MiB.
pub const WRITE_WINDOW_STRIPES: usize = 16;
/// Sealed bytes that all writes of a node have under way at once.
pub const WRITE_WINDOW_BYTES: usize = 48 * MIB;
/// Sealed bytes that one read fetches ahead of its reader.
pub const READ_WINDOW_BYTES: usize = 32 * MIB;

/// Target length of the store's pack files. A terabyte is then 4,000 files, and the tail that is re-read after a
/// crash, at most one pack, takes a second on a slow disk.
pub const STORE_PACK_BYTES: u64 = 256 * MIB as u64;
/// A small store still has this many packs, so that compaction finds some that are mostly dead.
pub const STORE_PACKS_MIN: u64 = 16;
/// Bytes that may wait for the store's writer: a full window of writes, and some repair.
pub const STORE_QUEUE_BYTES_MAX: usize = 64 * MIB;
/// Bytes that share one sync: at 16 MiB the sync's fixed cost is under a tenth of the transfer, also on a fast disk.
pub const STORE_GROUP_BYTES_MAX: usize = 16 * MIB;
/// Below this a group that is part of a stream waits for more, at most [`STORE_GATHER_TIME`]: a sync of 4 MiB costs a fast disk as much
/// time for its bytes as for itself.
pub const STORE_GATHER_BYTES: usize = 4 * MIB;
/// See [`STORE_GATHER_BYTES`]: a fifth of what a stripe waits anyway while 16 of them are under way.
pub const STORE_GATHER_TIME: Duration = Duration::from_millis(20);
/// Changes that the index keeps in memory, at 200 bytes each, before they are written to its file.
pub const STORE_INDEX_CHANGES_MAX: usize = 8192;
/// The same while the index cannot be written, on a full disk say: then puts are refused, later deletes too.
pub const STORE_INDEX_BACKLOG_MAX: usize = 8 * STORE_INDEX_CHANGES_MAX;
/// The index's page cache: the inner nodes for 10 million shards, and the leaves in use.
pub const STORE_INDEX_CACHE_BYTES: usize = 8 * MIB;
/// An index up to this is checked whole when it is opened, which takes 50 ms at most.
pub const STORE_INDEX_CHECK_BYTES_MAX: u64 = 32 * MIB as u64;
/// Pack files that are kept open for reading.
pub const STORE_OPEN_PACKS_MAX: usize = 64;
/// Shards that one tombstone record lists at most: 33 KiB.
pub const STORE_TOMBSTONES_PER_RECORD_MAX: usize = 1024;
/// A file that is given up when a full disk has no room for tombstones: enough for 30,000 deletes.
pub const STORE_RESERVE_BYTES: usize = MIB;

/// Bytes of a path in a space, and of one name in it: what common file systems allow.
pub const PATH_BYTES_MAX: usize = 4096;
/// See [`PATH_BYTES_MAX`].
pub const NAME_BYTES_MAX: usize = 255;

const _: () = assert!(CHUNK_BYTES_MIN < CHUNK_BYTES_AVG && CHUNK_BYTES_AVG < CHUNK_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES_MAX.is_multiple_of(FRAME_BYTES));
const _: () = assert!(INLINE_SEALED_BYTES_MAX < REPLICATE_SEALED_BYTES_MAX);
const _: () = assert!(SHARD_BYTES_MAX + DESCRIPTOR_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(SHARDS_MAX * 40 < DESCRIPTOR_BYTES_MAX);
// What two hundred people say goes into one message.
const _: () = assert!(200 * RESIDENCES_PER_USER_MAX * RESIDENCE_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(RESIDENCES_PER_USER_MAX * 40 < ROTATION_BYTES_MAX / 8);
const _: () = assert!(APPEND_BYTES_MAX + ENTRY_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(PINS_PER_ENTRY_MAX * 40 < ENTRY_BYTES_MAX);
const _: () = assert!(WRITE_WINDOW_BYTES >= SEALED_BYTES_MAX && READ_WINDOW_BYTES >= SEALED_BYTES_MAX);
const _: () = assert!(STORE_QUEUE_BYTES_MAX >= WRITE_WINDOW_BYTES + SEALED_BYTES_MAX);
const _: () = assert!(STORE_GROUP_BYTES_MAX >= SHARD_BYTES_MAX && STORE_QUEUE_BYTES_MAX >= 2 * STORE_GROUP_BYTES_MAX);
