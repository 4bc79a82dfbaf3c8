//! The handle: what the rest of the system sees.

use crate::{
    audit::{self, Audit},
    compact::Compaction,
    disk::{Disk, DiskFile, OpenMode, OsDisk},
    error::{ChangeError, DiskError, GetError, IndexError, OpenError, PutError},
    format::{PackId, Place, SUPERBLOCK_BYTES, SUPERBLOCK_FILE, decode_superblock},
    index::{self, Entry},
    queue::{Command, Queue, Refused},
    recover::{self, Recovered, Recovery},
    scan::read_shard,
    scrub::{self, ScrubError, ScrubProgress},
    shared::{Shared, Stats},
    writer::{Current, Writer},
};
use potluck_types::{
    ByteSize, Clock, Entropy, Shard, ShardId, SpaceId, StripeId, SystemClock, SystemEntropy, Timestamp,
    UnverifiedShard, limits,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
};

/// How often a read looks a shard up anew when compaction moved it meanwhile.
const READ_ATTEMPTS: usize = 8;

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    /// What the store may use of the disk at most, all files included.
    pub capacity: ByteSize,
    /// Stamps what is stored.
    pub clock: Arc<dyn Clock>,
    /// Makes a new store's key.
    pub entropy: Arc<dyn Entropy>,
    /// Who does the writing.
    pub driver: Driver,
    /// Target length of a pack; derived from the capacity when `None`.
    pub pack_bytes: Option<ByteSize>,
    /// Memory for the index's pages.
    pub index_cache: ByteSize,
}

impl Options {
    /// The usual: the system's clock and randomness, and a thread that writes.
    pub fn new(capacity: ByteSize) -> Self {
        Self {
            capacity,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            driver: Driver::Thread,
            pack_bytes: None,
            index_cache: ByteSize(limits::STORE_INDEX_CACHE_BYTES as u64),
        }
    }
}

/// Who does the writing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Driver {
    /// A thread of the store's own.
    #[default]
    Thread,
    /// Whoever calls [`Store::turn`], or a method that waits. Nothing happens otherwise: this is what makes a
    /// simulation repeatable.
    Caller,
}

/// A store. Clones are handles on the same one; it closes in order when the last is dropped.
#[derive(Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    driving: Driving,
    /// Held, not used: the lock ends with it.
    _lock: Arc<dyn DiskFile>,
}

enum Driving {
    Thread(Mutex<Option<JoinHandle<()>>>),
    Caller(Mutex<Writer>),
}

impl Store {
    /// Opens the store in this directory, or makes one there.
    pub fn open_dir(directory: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        let disk = OsDisk::new(directory).map_err(DiskError::at("create", directory.to_string_lossy()))?;
        Self::open(Arc::new(disk), options)
    }

    /// Opens the store on this disk, or makes one there.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<(Self, Recovery), OpenError> {
        let recovered = recover::open(&disk, &*options.entropy, options.index_cache.0 as usize)?;
        let Recovered {
            key,
            index,
            packs,
            position,
            resume,
            next_pack,
            reserve,
            lock,
            report,
        } = recovered;
        let pack_bytes = options.pack_bytes.map_or_else(
            || {
                (options.capacity.0 / limits::STORE_PACKS_MIN)
                    .clamp(crate::format::RECORD_BYTES_MAX, limits::STORE_PACK_BYTES)
            },
            |bytes| bytes.0.min(limits::STORE_PACK_BYTES),
        );
        let current = match resume {
            None => None,
            Some(id) => Some(Current {
                id,
                file: packs.open(id)?,
                len: position.place.offset,
            }),
        };
        let shared = Arc::new(Shared {
            disk,
            clock: options.clock,
            key,
            pack_bytes,
            capacity: options.capacity.0.into(),
            index,
            packs,
            queue: Queue::default(),
            scrub: Mutex::new(position.scrub),
            counters: Default::default(),
            unsound: Default::default(),
        });
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            current,
            previous: position.place,
            next_pack,
            group: position.group.max(1),
            unsettled: false,
            reserve,
            job: None,
            checkpoint_at: limits::STORE_INDEX_CHANGES_MAX,
        };
        writer.restore_reserve();
        let driving = match options.driver {
            Driver::Caller => Driving::Caller(Mutex::new(writer)),
            Driver::Thread => {
                let run = move || {
                    let shared = Arc::clone(&writer.shared);
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        while let Some(commands) = shared.queue.take_or_wait() {
                            writer.turn(commands);
                        }
                        writer.close();
                    }));
                    if let Err(panic) = outcome {
                        // Whoever waits, or comes later, must not wait for ever.
                        shared.queue.close();
                        while let Some(commands) = shared.queue.take_or_wait() {
                            commands.into_iter().for_each(Command::refuse_closed);
                        }
                        resume_unwind(panic);
                    }
                };
                let thread = thread::Builder::new().name("store-writer".to_owned()).spawn(run);
                Driving::Thread(Mutex::new(Some(
                    thread.map_err(DiskError::at("start", "store-writer"))?,
                )))
            }
        };
        let handle = Arc::new(Handle {
            shared,
            driving,
            _lock: lock,
        });
        Ok((Self { handle }, report))
    }

    /// Stores a shard. Returns at once; `done` is called once the shard is durable, or will not be, on the writer's
    /// thread: it must not take long, wait for the store, or panic.
    ///
    /// A shard that is stored already is acknowledged as it is. [`PutError::Busy`] when too much waits.
    pub fn put(&self, shard: Shard, space: SpaceId, done: impl FnOnce(Result<(), PutError>) + Send + 'static) {
        let done = Box::new(done);
        match self.shared().queue.push(Command::Put { shard, space, done }) {
            Ok(()) => {}
            Err(Refused::Closed(command)) => command.refuse_closed(),
            Err(Refused::Busy(command, waiting)) => {
                if let Command::Put { done, .. } = *command {
                    done(Err(PutError::Busy {
                        waiting: ByteSize(waiting as u64),
                    }));
                }
            }
        }
    }

    /// Stores a shard and waits until it is durable, and before for room in the queue.
    pub fn put_wait(&self, shard: Shard, space: SpaceId) -> Result<(), PutError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        let mut command = Command::Put { shard, space, done };
        loop {
            match self.shared().queue.push(command) {
                Ok(()) => break,
                Err(Refused::Closed(_)) => return Err(PutError::Closed),
                Err(Refused::Busy(refused, seen)) => {
                    command = *refused;
                    match self.handle.driving {
                        Driving::Thread(_) => self.shared().queue.wait_for_room(seen),
                        Driving::Caller(_) => self.turn(),
                    }
                }
            }
        }
        self.turn();
        receiver.recv().unwrap_or(Err(PutError::Closed))
    }

    /// Deletes shards, and waits until that is durable. Tells how many of them were there. Works on a full disk and
    /// over quota; the space comes back by compaction.
    pub fn delete(&self, ids: &[ShardId]) -> Result<usize, ChangeError> {
        let ids = ids.to_vec();
        self.ask(|done| Command::Delete { ids, done })
    }

    /// As [`Store::delete`], without waiting: `done` is called as that of [`Store::put`] is.
    pub fn delete_then(&self, ids: Vec<ShardId>, done: impl FnOnce(Result<usize, ChangeError>) + Send + 'static) {
        let done = Box::new(done);
        if let Err(Refused::Closed(command) | Refused::Busy(command, _)) =
            self.shared().queue.push(Command::Delete { ids, done })
        {
            command.refuse_closed();
        }
    }

    /// Reads a shard and checks it. One that is damaged is no longer listed when this returns.
    pub fn get(&self, id: &ShardId) -> Result<Option<Shard>, GetError> {
        let Some((entry, shard)) = self.read(id)? else {
            return Ok(None);
        };
        let error = match shard.verify(id.stripe) {
            Ok(shard) => return Ok(Some(shard)),
            Err(error) => error,
        };
        self.quarantine(*id, entry.place());
        Err(GetError::Damaged {
            id: *id,
            source: Some(error),
        })
    }

    /// Reads a shard with one read of the disk, and leaves the check to whoever wants it.
    pub fn get_unverified(&self, id: &ShardId) -> Result<Option<UnverifiedShard>, GetError> {
        Ok(self.read(id)?.map(|(_, shard)| shard))
    }

    fn read(&self, id: &ShardId) -> Result<Option<(Entry, UnverifiedShard)>, GetError> {
        let shared = self.shared();
        let mut attempt = 0;
        loop {
            let Some(entry) = shared.entry(id)? else {
                return Ok(None);
            };
            let name = || entry.pack.file_name();
            let read = shared.packs.open(entry.pack).and_then(|file| {
                read_shard(&*file, entry.offset, id, entry.descriptor_len, entry.payload_len)
                    .map_err(DiskError::at("read", name()))
            });
            let error = match read {
                Ok(shard) => return Ok(Some((entry, shard))),
                Err(error) => error,
            };
            attempt += 1;
            if attempt < READ_ATTEMPTS && shared.entry(id)? != Some(entry) {
                continue;
            }
            if error.tells_of_damage() {
                self.quarantine(*id, entry.place());
                return Err(GetError::Damaged { id: *id, source: None });
            }
            return Err(error.into());
        }
    }

    fn quarantine(&self, id: ShardId, place: Place) {
        tracing::warn!(stripe = %id.stripe.short(), index = id.index, "a damaged shard was found");
        // If it cannot be recorded, whoever opens the store again finds it again.
        let _ = self.drop_damaged(&[(id, place)]);
    }

    /// What is damaged is no longer listed, whether or not that can be recorded.
    fn drop_damaged(&self, found: &[(ShardId, Place)]) -> Result<usize, ChangeError> {
        let dropped = self.ask(|done| Command::Quarantine {
            found: found.to_vec(),
            done,
        });
        if dropped.is_err() {
            self.shared().hide(found);
        }
        dropped
    }

    /// What is known of a shard without reading it; `None` when it is not stored.
    pub fn entry(&self, id: &ShardId) -> Result<Option<Entry>, IndexError> {
        self.shared().entry(id)
    }

    /// When a shard was found sound last, at the earliest: by the scrub, or as it was stored; `None` when it is not stored.
    pub fn verified_at(&self, id: &ShardId) -> Result<Option<Timestamp>, IndexError> {
        let scrub = self.shared().scrub();
        let entry = self.shared().entry(id)?;
        Ok(entry.map(|entry| entry.stored_at.max(scrub::verified_at(scrub, entry.place()))))
    }

    /// The indexes of the shards of a stripe that are stored, ascending.
    pub fn indexes_of(&self, stripe: StripeId) -> Result<Vec<u8>, IndexError> {
        let found = self.shared().listed(self.shared().index.entries_of(stripe)?);
        Ok(found.iter().map(|(id, _)| id.index).collect())
    }

    /// Up to `limit` shards in the order of their ids, starting behind `after`; none when there are no more. Reads only the index.
    pub fn entries(&self, mut after: Option<ShardId>, limit: usize) -> Result<Vec<(ShardId, Entry)>, IndexError> {
        let shared = self.shared();
        loop {
            let page = shared.index.entries(after, limit)?;
            let last = page.last().map(|(id, _)| *id);
            let listed = shared.listed(page);
            if !listed.is_empty() || last.is_none() {
                return Ok(listed);
            }
            after = last;
        }
    }

    /// How full the store is, and what it did.
    pub fn stats(&self) -> Stats {
        self.shared().stats()
    }

    /// How many more bytes the disk has room for, if that can be known.
    pub fn free_space(&self) -> Option<ByteSize> {
        self.shared().disk.free_space().ok().map(ByteSize)
    }

    /// Changes what the store may use. Less than it uses is no error: puts are refused until there is room.
    pub fn set_capacity(&self, capacity: ByteSize) {
        self.shared().capacity.store(capacity.0, Ordering::Relaxed);
    }

    /// Goes on giving dead space back, until about `bytes_max` bytes of a pack were looked at.
    pub fn compact_step(&self, bytes_max: ByteSize) -> Result<Compaction, ChangeError> {
        let bytes_max = bytes_max.0;
        self.ask(|done| Command::Compact { bytes_max, done })
    }

    /// Goes on checking what is stored, until about `bytes_max` bytes were read. The caller sets the pace.
    pub fn scrub_step(&self, bytes_max: ByteSize) -> Result<ScrubProgress, ScrubError> {
        let began = self.shared().clock.now();
        let scrub::Walk {
            mut progress,
            damaged,
            next,
        } = scrub::walk(self.shared(), bytes_max.0)?;
        if !damaged.is_empty() {
            self.drop_damaged(&damaged)?;
            for (id, place) in damaged {
                let moved = self.shared().index.entry(&id)?;
                if moved.is_none_or(|entry| entry.place() == place) {
                    progress.damaged.push(id);
                }
            }
        }
        scrub::advance(self.shared(), next, began);
        Ok(progress)
    }

    /// Reads everything, and compares the index with the packs. Nothing may be put or deleted meanwhile. `progress` is told the bytes read so far.
    pub fn audit(&self, progress: impl FnMut(ByteSize)) -> Result<Audit, IndexError> {
        audit::audit(self.shared(), progress)
    }

    /// Writes the headers of these packs anew, durably. Nothing may be put or deleted meanwhile.
    pub fn restore_headers(&self, packs: &[PackId]) -> Result<(), DiskError> {
        audit::restore_headers(self.shared(), packs)
    }

    /// Whether the file of this directory that names the store and its key is there and whole.
    pub fn has_superblock(directory: &Path) -> bool {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let file = OsDisk::read_only(directory).open(SUPERBLOCK_FILE, OpenMode::Existing);
        file.is_ok_and(|file| file.read_at(&mut bytes, 0).is_ok() && decode_superblock(&bytes).is_ok())
    }

    /// Whether a process has the store in this directory open.
    pub fn is_in_use(directory: &Path) -> bool {
        let file = OsDisk::read_only(directory).open(SUPERBLOCK_FILE, OpenMode::Existing);
        file.is_ok_and(|file| matches!(file.try_lock(), Ok(false)))
    }

    /// Removes the index of the store in this directory, which is closed: the next open makes it anew from the packs.
    pub fn discard_index(directory: &Path) -> Result<(), DiskError> {
        let disk = OsDisk::new(directory).map_err(DiskError::at("create", directory.to_string_lossy()))?;
        index::discard(&disk)
    }

    /// Writes the index, so that the next open has nothing to replay. Not needed for durability.
    pub fn checkpoint(&self) -> Result<(), ChangeError> {
        self.ask(|done| Command::Checkpoint { done })
    }

    /// Finishes what waits and closes the store in order; all handles are closed then. Dropping the last handle does
    /// the same.
    pub fn close(&self) {
        self.handle.close();
    }

    /// Does what waits, when the caller drives ([`Driver::Caller`]); one group at a time.
    pub fn turn(&self) {
        if let Driving::Caller(writer) = &self.handle.driving {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let commands = self.shared().queue.take();
                if commands.is_empty() {
                    return;
                }
                writer.turn(commands);
            }
        }
    }

    /// Sends a command and waits for its answer.
    fn ask<T: Send + 'static>(
        &self,
        command: impl FnOnce(Box<dyn FnOnce(Result<T, ChangeError>) + Send>) -> Command,
    ) -> Result<T, ChangeError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let command = command(Box::new(move |outcome| drop(sender.send(outcome))));
        if self.shared().queue.push(command).is_err() {
            return Err(ChangeError::Closed);
        }
        self.turn();
        receiver.recv().unwrap_or(Err(ChangeError::Closed))
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

impl Handle {
    fn close(&self) {
        let first = self.shared.queue.close();
        match &self.driving {
            Driving::Caller(_) if !first => {}
            Driving::Caller(writer) => {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                loop {
                    let commands = self.shared.queue.take();
                    if commands.is_empty() {
                        break;
                    }
                    writer.turn(commands);
                }
                writer.close();
            }
            Driving::Thread(running) => {
                let running = running.lock().unwrap_or_else(PoisonError::into_inner).take();
                // The last handle may be dropped by a callback, on the writer's own thread.
                if let Some(running) = running.filter(|running| running.thread().id() != thread::current().id()) {
                    let _ = running.join();
                }
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}
