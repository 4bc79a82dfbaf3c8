//! What waits for the writer: bounded in bytes, taken a group at a time.

use crate::{
    compact::Compaction,
    error::{ChangeError, PutError},
    format::Place,
};
use potluck_types::{Shard, ShardId, SpaceId, limits};
use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Called once, when the outcome is certain.
pub(crate) type Done<T, E> = Box<dyn FnOnce(Result<T, E>) + Send>;

/// What the writer is asked to do.
pub(crate) enum Command {
    Put {
        shard: Shard,
        space: SpaceId,
        done: Done<(), PutError>,
    },
    Delete {
        ids: Vec<ShardId>,
        done: Done<usize, ChangeError>,
    },
    /// Deletes what is damaged, unless it was replaced since it was found.
    Quarantine {
        found: Vec<(ShardId, Place)>,
        done: Done<usize, ChangeError>,
    },
    Compact {
        bytes_max: u64,
        done: Done<Compaction, ChangeError>,
    },
    Checkpoint {
        done: Done<(), ChangeError>,
    },
}

impl Command {
    /// The memory that it holds on to while it waits.
    fn bytes(&self) -> usize {
        match self {
            Self::Put { shard, .. } => shard.payload().len() + limits::DESCRIPTOR_BYTES_MAX,
            Self::Delete { ids, .. } => size_of_val(&ids[..]),
            Self::Quarantine { found, .. } => size_of_val(&found[..]),
            Self::Compact { .. } | Self::Checkpoint { .. } => 0,
        }
    }

    /// Tells whoever asked that the store is closed.
    pub(crate) fn refuse_closed(self) {
        match self {
            Self::Put { done, .. } => done(Err(PutError::Closed)),
            Self::Delete { done, .. } | Self::Quarantine { done, .. } => done(Err(ChangeError::Closed)),
            Self::Compact { done, .. } => done(Err(ChangeError::Closed)),
            Self::Checkpoint { done } => done(Err(ChangeError::Closed)),
        }
    }
}

/// Why a command was not taken.
pub(crate) enum Refused {
    Closed(Box<Command>),
    /// This many bytes wait already.
    Busy(Box<Command>, usize),
}

/// See the module.
#[derive(Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    left: Condvar,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// Adds a command, if there is room. Deletes always have room: they free some.
    pub(crate) fn push(&self, command: Command) -> Result<(), Refused> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(Refused::Closed(Box::new(command)));
        }
        let full = waiting.bytes + command.bytes() > limits::STORE_QUEUE_BYTES_MAX;
        if full && matches!(command, Command::Put { .. }) {
            return Err(Refused::Busy(Box::new(command), waiting.bytes));
        }
        waiting.bytes += command.bytes();
        waiting.commands.push_back(command);
        self.arrived.notify_one();
        Ok(())
    }

    /// Waits until fewer than the given number of bytes wait, or the queue is closed.
    pub(crate) fn wait_for_room(&self, seen: usize) {
        let waiting = self.lock();
        drop(
            self.left
                .wait_while(waiting, |waiting| waiting.bytes >= seen && !waiting.closed),
        );
    }

    /// Waits for commands and takes as many as make a group; `None` when the queue is closed and empty.
    ///
    /// What finds the writer idle is taken at once. What came while it was busy is part of a stream, most likely: its group
    /// is given a moment to grow, so that fewer syncs carry the stream.
    pub(crate) fn take_or_wait(&self) -> Option<Vec<Command>> {
        let waiting = self.lock();
        let mut waiting = if waiting.commands.is_empty() {
            self.arrived
                .wait_while(waiting, |waiting| waiting.commands.is_empty() && !waiting.closed)
                .unwrap_or_else(PoisonError::into_inner)
        } else {
            self.arrived
                .wait_timeout_while(waiting, limits::STORE_GATHER_TIME, |waiting| waiting.may_grow())
                .map_or_else(|poisoned| poisoned.into_inner().0, |(waiting, _)| waiting)
        };
        let commands = waiting.take();
        self.left.notify_all();
        (!commands.is_empty()).then_some(commands)
    }

    /// Takes as many commands as make a group, or none.
    pub(crate) fn take(&self) -> Vec<Command> {
        self.lock().take()
    }

    /// Takes no more commands. Tells whether it did until now.
    pub(crate) fn close(&self) -> bool {
        let was_closed = std::mem::replace(&mut self.lock().closed, true);
        self.arrived.notify_all();
        self.left.notify_all();
        !was_closed
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether what waits is a small part of a stream of puts.
    fn may_grow(&self) -> bool {
        let is_put = |command: &Command| matches!(command, Command::Put { .. });
        !self.closed && self.bytes < limits::STORE_GATHER_BYTES && self.commands.iter().all(is_put)
    }

    fn take(&mut self) -> Vec<Command> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(command) = self.commands.front() {
            bytes += command.bytes();
            if bytes > limits::STORE_GROUP_BYTES_MAX && !group.is_empty() {
                break;
            }
            self.bytes -= command.bytes();
            group.extend(self.commands.pop_front());
        }
        group
    }
}
