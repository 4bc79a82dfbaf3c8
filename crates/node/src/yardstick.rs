//! What this machine can do at best: the work that no put and no get can do without (sealing, coding, hashing, and files), on all
//! cores, with nothing else around it. What the pool does beside is measured against this.

use potluck_crypto::{PieceKey, seal};
use potluck_dag::stripe;
use potluck_types::{Entropy, Geometry, Hash, SystemEntropy, limits};
use std::{
    fs::File,
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// Pieces are of the mean length of a chunk.
const PIECE_BYTES: usize = limits::CHUNK_BYTES_AVG;
/// Different pieces, taken in turn: more than a core's cache holds.
const PIECES: usize = 64;
/// Bytes that share one sync, as in the store.
const SYNC_BYTES: usize = limits::STORE_GROUP_BYTES_MAX;

/// A pool's files, in a folder that the caller makes and removes.
#[derive(Debug)]
pub struct Yardstick {
    folder: PathBuf,
    geometry: Geometry,
    nodes: usize,
    pieces: u64,
    placed: Vec<Placed>,
}

/// Where a piece's data shards lie.
#[derive(Debug, Clone)]
struct Placed {
    key: PieceKey,
    sealed_len: usize,
    shard_len: usize,
    shards: Vec<(usize, u64, Hash)>,
}

impl Yardstick {
    /// For this much content over so many nodes, each with a file of its own.
    pub fn new(folder: &Path, bytes: u64, geometry: Geometry, nodes: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            geometry,
            nodes,
            pieces: bytes.div_ceil(PIECE_BYTES as u64),
            placed: Vec::new(),
        }
    }

    fn file(&self, node: usize) -> PathBuf {
        self.folder.join(format!("shards-{node}"))
    }

    /// Seals every piece (AES-256-GCM), codes it (Reed–Solomon), hashes its shards (BLAKE3), and writes them with a sync for every 16 MiB.
    pub fn put(&mut self) -> io::Result<Duration> {
        let mut plain = vec![0; PIECES * PIECE_BYTES];
        SystemEntropy.fill(&mut plain);
        let begun = Instant::now();
        let this = &*self;
        let next = AtomicU64::new(0);
        let placed = Mutex::new(Vec::new());
        let lengths: Vec<AtomicU64> = (0..this.nodes).map(|_| AtomicU64::new(0)).collect();
        thread::scope(|scope| {
            let mut writers = Vec::new();
            let mut written = Vec::new();
            for node in 0..this.nodes {
                let (sender, receiver) = mpsc::sync_channel::<(u64, bytes::Bytes)>(16);
                let file = File::create(this.file(node))?;
                writers.push(sender);
                written.push(scope.spawn(move || write_all(&file, &receiver)));
            }
            for _ in 0..cores() {
                let (writers, plain, next, placed, lengths) = (writers.clone(), &plain, &next, &placed, &lengths);
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= this.pieces {
                            return;
                        }
                        let at = number as usize % PIECES * PIECE_BYTES;
                        let (key, sealed) = seal::seal(&plain[at..at + PIECE_BYTES], &SystemEntropy);
                        let sealed_len = sealed.len();
                        let stripe = stripe::encode(sealed, this.geometry).expect("a piece is within the limits");
                        let mut shards = Vec::new();
                        for (index, shard) in stripe.shards.into_iter().enumerate() {
                            let node = (number as usize + index) % this.nodes;
                            let len = shard.payload().len() as u64;
                            let offset = lengths[node].fetch_add(len, Ordering::Relaxed);
                            let hash = stripe.descriptor.shard_hash(shard.id().index).expect("one of its own");
                            if index < this.geometry.k().into() {
                                shards.push((node, offset, hash));
                            }
                            // A writer that failed has said so.
                            let _ = writers[node].send((offset, shard.payload().clone()));
                        }
                        let shard_len = stripe.descriptor.shard_len();
                        placed.lock().expect("never poisoned").push(Placed {
                            key,
                            sealed_len,
                            shard_len,
                            shards,
                        });
                    }
                });
            }
            drop(writers);
            written
                .into_iter()
                .try_for_each(|writer| writer.join().expect("a writer does not panic"))
        })?;
        self.placed = placed.into_inner().expect("never poisoned");
        Ok(begun.elapsed())
    }

    /// Reads the data shards of every piece from the disk, checks their hashes, opens them, and writes the content to a file with a sync at its end.
    pub fn get(&self) -> io::Result<Duration> {
        let files = (0..self.nodes)
            .map(|node| File::open(self.file(node)))
            .collect::<io::Result<Vec<_>>>()?;
        for file in &files {
            // The pool's packs are written past the page cache, and read from the disk.
            forget_cached(file)?;
        }
        let begun = Instant::now();
        let content = File::create(self.folder.join("content"))?;
        let next = AtomicU64::new(0);
        thread::scope(|scope| {
            let readers: Vec<_> = (0..cores())
                .map(|_| scope.spawn(|| self.read(&files, &content, &next)))
                .collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().expect("a reader does not panic"))
        })?;
        content.sync_data()?;
        Ok(begun.elapsed())
    }

    fn read(&self, files: &[File], content: &File, next: &AtomicU64) -> io::Result<()> {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = self.placed.get(number as usize) else {
                return Ok(());
            };
            let mut sealed = vec![0; piece.shard_len * piece.shards.len()];
            for ((node, offset, hash), shard) in piece.shards.iter().zip(sealed.chunks_mut(piece.shard_len)) {
                files[*node].read_exact_at(shard, *offset)?;
                if Hash::of(shard) != *hash {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "the disk gave other bytes back",
                    ));
                }
            }
            let plain = seal::open(&piece.key, &sealed[..piece.sealed_len])
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            content.write_all_at(&plain, number * PIECE_BYTES as u64)?;
        }
    }

    /// Writes small files one by one and syncs each, as any program must that acknowledges each alone: files a second, on one thread a core.
    pub fn small_files(&self, count: u64, len: usize) -> io::Result<Duration> {
        let folder = self.folder.join("small");
        std::fs::create_dir_all(&folder)?;
        let content = vec![7; len];
        let next = AtomicU64::new(0);
        let begun = Instant::now();
        thread::scope(|scope| {
            let writers: Vec<_> = (0..cores())
                .map(|_| {
                    scope.spawn(|| -> io::Result<()> {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= count {
                                return Ok(());
                            }
                            let mut file = File::create(folder.join(number.to_string()))?;
                            file.write_all(&content)?;
                            file.sync_data()?;
                        }
                    })
                })
                .collect();
            writers
                .into_iter()
                .try_for_each(|writer| writer.join().expect("a writer does not panic"))
        })?;
        Ok(begun.elapsed())
    }
}

#[cfg(target_os = "linux")]
fn forget_cached(file: &File) -> io::Result<()> {
    use rustix::fs::{Advice, fadvise};
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn forget_cached(_: &File) -> io::Result<()> {
    Ok(())
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn write_all(file: &File, shards: &mpsc::Receiver<(u64, bytes::Bytes)>) -> io::Result<()> {
    let mut unsynced = 0;
    for (offset, shard) in shards {
        file.write_all_at(&shard, offset)?;
        unsynced += shard.len();
        if unsynced >= SYNC_BYTES {
            file.sync_data()?;
            unsynced = 0;
        }
    }
    file.sync_data()
}
