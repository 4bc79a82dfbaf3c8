//! What the façade takes and gives: plain data, so that command line, web page, S3 and tests all speak it alike.

mod access;
mod erase;
mod history;
mod link;
mod snapshot;

pub use access::{AccessChange, AccessEvent, Compared, Has, Problem, Verified};
pub use erase::{Erasable, Erased, Receipt, Says};
pub use history::{
    Conflict, Did, Difference, Differing, Doing, Settled, Settling, Version, VersionId, VersionIdError, VersionState,
    Which,
};
pub use link::{LinkContent, LinkInfo, LinkMade, LinkOptions};
pub use snapshot::SnapshotInfo;

use crate::world::World;
use potluck_crypto::Passphrase;
use potluck_spaces::{Mass, Name, Path, Share};
use potluck_types::{
    ByteSize, Geometry, MachineName, NodeId, PoolId, Region, Regions, ShardId, SpaceId, SpaceName, StripeId, Timestamp,
    UserId, UserName, Zone,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// How a node is run.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where keys, shards and metadata are kept.
    pub home: PathBuf,
    /// Where to listen: `IP:PORT` each; port 0 picks a free one.
    pub listen: Vec<String>,
    /// Addresses to announce beside those found: `IP:PORT` or multiaddr. For a node behind a forwarded port.
    pub announce: Vec<String>,
    /// What the pool may use of this disk at most.
    pub capacity: ByteSize,
    /// The failure domain of this node; itself when none.
    pub zone: Option<Zone>,
    /// Where it stands: what spaces may be kept in, that are not to be everywhere.
    pub region: Option<Region>,
    /// What its person calls it.
    pub name: Option<MachineName>,
    /// Whether to find members on the local network.
    pub mdns: bool,
    /// Whether to carry what members say to each other that cannot reach each other.
    pub relay: bool,
    /// How long an absent node is waited for before its shards are made anew elsewhere.
    pub grace: Duration,
    /// What it stands on.
    pub world: World,
    /// How long what is removed or overwritten can be brought back; not at all when it is no time.
    pub retention: Duration,
    /// What part of all files may be removed and overwritten within an hour without a question.
    pub mass_change_share: Share,
    /// What opens its keys, where they are under a passphrase.
    pub passphrase: Option<Passphrase>,
}

/// Who and where a node is, known before it runs and printed first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// This node.
    pub node: NodeId,
    /// Its person.
    pub user: UserId,
    /// Its pool.
    pub pool: PoolId,
    /// The pool's name.
    pub pool_name: String,
    /// Where it listens.
    pub addresses: Vec<String>,
}

/// A shard that a node holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Which.
    pub shard: ShardId,
    /// How its stripe is coded.
    pub geometry: Geometry,
    /// For which space.
    pub space: SpaceId,
}

/// What kind of invitation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InviteOptions {
    /// How many nodes may join with it.
    pub uses: u32,
    /// How long it is good for.
    pub expires: Duration,
    /// Whether the joining node is another machine of mine: it gets my user key, and opens my private space.
    pub mine: bool,
}

/// A ticket, to be given to whoever may join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invitation {
    /// Its text: a secret until it is used.
    pub ticket: String,
    /// When it ends.
    pub expires: Timestamp,
    /// How many nodes may join with it.
    pub uses: u32,
    /// Whether it makes the joining node one of mine.
    pub mine: bool,
}

/// Whether a node answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// This node.
    Here,
    /// Connected.
    Live,
    /// Not connected.
    Away,
    /// Connected, and about to leave.
    Leaving,
    /// Connected, and could not prove what it says that it holds: it is given nothing, and what it holds is made anew elsewhere.
    Doubted,
}

/// What is being done for a stripe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StripeWork {
    /// Nothing: all is where it should be.
    Nothing,
    /// It is being repaired, or a shard of it is being moved.
    Mending,
    /// It will be, next.
    Queued,
    /// It ought to be, and waits.
    Waiting {
        /// Why: see [`HealthInfo::waiting`].
        cause: String,
        /// Until when, if time alone may change it.
        until: Option<Timestamp>,
    },
}

/// How to look at where a file is.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainOptions {
    /// Let every holder prove a random part of each shard now.
    pub check: bool,
}

/// Where the data of a file, or of all files below a directory, is, and how safe it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Of what.
    pub path: Path,
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that have no stripes: they live with their names.
    pub inline: u64,
    /// How many losses they were made to survive, the least of all.
    pub promised: u8,
    /// Stripes; what several files share counts once.
    pub stripes: u64,
    /// Stripes that survive so many more losses now.
    #[serde(with = "counts")]
    pub survives: BTreeMap<u8, u64>,
    /// Stripes that cannot be read now.
    pub unreadable: u64,
    /// Stripes that no steward says anything of: what is done for them is not known.
    pub unheard: u64,
    /// What is being done, and for how many stripes.
    pub work: Vec<(StripeWork, u64)>,
    /// Machines that hold shards, or keep the names.
    pub machines: Vec<MachineShare>,
    /// How many losses the names survive, and what lives with them.
    #[serde(default)]
    pub names_survive: u8,
    /// The regions where it may be, if not everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<Regions>,
    /// How many machines of the pool stand there.
    #[serde(default)]
    pub machines_there: u64,
    /// Shards that are elsewhere yet.
    #[serde(default)]
    pub elsewhere: u64,
    /// How many files survive less than they were made to.
    pub short_files: u64,
    /// Some of them.
    pub short_paths: Vec<Path>,
    /// Stripe by stripe, those first that survive the least; of large files only the first few hundred.
    pub told: Vec<StripeInfo>,
}

impl Explanation {
    pub(crate) fn of(path: Path) -> Self {
        Self {
            path,
            files: 0,
            bytes: 0,
            inline: 0,
            promised: u8::MAX,
            stripes: 0,
            names_survive: 0,
            regions: None,
            machines_there: 0,
            elsewhere: 0,
            survives: BTreeMap::new(),
            unreadable: 0,
            unheard: 0,
            work: Vec::new(),
            machines: Vec::new(),
            short_files: 0,
            short_paths: Vec::new(),
            told: Vec::new(),
        }
    }

    /// The fewest losses that all of it survives; none when something cannot be read now.
    pub fn least(&self) -> Option<u8> {
        match self.survives.keys().next() {
            _ if self.unreadable > 0 => None,
            Some(least) => Some(*least),
            None => Some(self.names_survive),
        }
    }
}

/// What a machine has of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MachineShare {
    /// Which.
    pub id: NodeId,
    /// What its person calls it.
    pub name: Option<MachineName>,
    /// The failure domain that it declares.
    pub zone: Option<Zone>,
    /// Where it says that it stands.
    pub region: Option<Region>,
    /// Whether it answers.
    pub status: NodeStatus,
    /// Shards that it says it has.
    pub shards: u64,
    /// Shards that it was known to have, and does not say so now: it is away, or does not answer.
    pub unconfirmed: u64,
    /// When the one of its shards that it has not checked for the longest was found sound, by its clock.
    pub verified_at: Option<Timestamp>,
    /// Whether it keeps the files' names, and what lives with them.
    pub keeps_names: bool,
    /// Shards of which it has proved a part just now.
    pub proved: u64,
    /// Shards of which it could not.
    pub failed: u64,
    /// Shards of which it said nothing.
    pub unanswered: u64,
}

impl MachineShare {
    pub(crate) fn of(info: NodeInfo) -> Self {
        Self {
            id: info.id,
            name: info.name,
            zone: info.zone,
            region: info.region,
            status: info.status,
            shards: 0,
            unconfirmed: 0,
            verified_at: None,
            keeps_names: false,
            proved: 0,
            failed: 0,
            unanswered: 0,
        }
    }
}

/// Where one stripe is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StripeInfo {
    /// Which.
    pub stripe: StripeId,
    /// Data and parity shards, as its steward knows it.
    pub geometry: Option<(u8, u8)>,
    /// How many more losses it survives; none when it cannot be read now.
    pub survives: Option<u8>,
    /// Who has what of it.
    pub shards: Vec<ShardInfo>,
    /// What is being done.
    pub work: StripeWork,
}

/// Where one shard is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShardInfo {
    /// Where.
    pub node: NodeId,
    /// Its number; data shards first.
    pub index: u8,
    /// When its holder found it sound last, at the earliest; none when the holder does not say that it has it.
    pub verified_at: Option<Timestamp>,
}

/// How a node has stood this node's challenges to prove what it says that it holds, since it became a member.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditInfo {
    /// It proved that it has the part that was asked for.
    pub proved: u64,
    /// It sent something else, or denied what it goes on claiming.
    pub wrong: u64,
    /// It said itself that it has lost it.
    pub lost: u64,
    /// It did not answer.
    pub offline: u64,
    /// It answered that it cannot say.
    pub unknown: u64,
    /// When it last proved something, by this node's count of time; 1970 for never.
    pub proved_at: Timestamp,
}

impl AuditInfo {
    /// Adds others, but for the time.
    pub(crate) fn add(&mut self, other: &Self) {
        self.proved += other.proved;
        self.wrong += other.wrong;
        self.lost += other.lost;
        self.offline += other.offline;
        self.unknown += other.unknown;
    }
}

/// One node of the pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Its person.
    pub user: UserId,
    /// Whether it answers.
    pub status: NodeStatus,
    /// Since when it is away.
    pub away_since: Option<Timestamp>,
    /// The failure domain that it declares.
    pub zone: Option<Zone>,
    /// Where it says that it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// What its person calls it.
    pub name: Option<MachineName>,
    /// What it offers.
    pub capacity: ByteSize,
    /// What the pool uses of it.
    pub used: ByteSize,
    /// Where it says that it can be reached.
    pub addresses: Vec<String>,
    /// The member that carries what this node and it say to each other, where there is no direct way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed_by: Option<NodeId>,
    /// The version it runs.
    pub version: String,
    /// How it has stood this node's challenges.
    #[serde(default)]
    pub audit: AuditInfo,
}

impl NodeInfo {
    /// What a person knows it by: its name, else the end of its id.
    pub fn called(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.short(), ToString::to_string)
    }
}

/// How safe the data is that this node looks after, or (added up over all live nodes) that of the pool.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthInfo {
    /// Stripes that survive so many losses now.
    #[serde(with = "counts")]
    pub survives: BTreeMap<u8, u64>,
    /// Stripes that cannot be read until an absent node returns.
    pub unreadable: u64,
    /// Stripes that are in use and of which no member has a shard, while none is away.
    #[serde(default)]
    pub lost: u64,
    /// Stripes that survive less than they were made for.
    pub endangered: u64,
    /// Stripes under repair or move now.
    pub mending: u64,
    /// Stripes that will be, next.
    pub queued: u64,
    /// Stripes that wait, by cause: `grace`, `no-domain`, `no-region`, `too-few-shards`, `retry`, `settling`, `unnamed`.
    pub waiting: BTreeMap<String, u64>,
    /// Bytes that repairs have read from shards since the nodes started.
    pub repair_read: u64,
    /// Bytes that repairs have written.
    pub repair_written: u64,
    /// Shards found damaged and dropped since the nodes started.
    pub damaged: u64,
    /// Files that are being coded anew, since the pool has other machines than when they were stored.
    #[serde(default)]
    pub recoding: u64,
    /// Nodes that have not heard yet what all others hold: the counts may lack some of theirs.
    #[serde(default)]
    pub gathering: u64,
}

impl HealthInfo {
    /// Stripes counted.
    pub fn stripes(&self) -> u64 {
        self.survives.values().sum::<u64>() + self.unreadable + self.lost
    }

    /// The fewest losses that any stripe survives; `None` when one cannot be read now.
    pub fn worst(&self) -> Option<u8> {
        if self.unreadable + self.lost > 0 {
            None
        } else {
            Some(self.survives.keys().next().copied().unwrap_or(u8::MAX))
        }
    }

    /// Adds another node's counts.
    pub fn add(&mut self, other: &Self) {
        for (losses, count) in &other.survives {
            *self.survives.entry(*losses).or_default() += count;
        }
        for (cause, count) in &other.waiting {
            *self.waiting.entry(cause.clone()).or_default() += count;
        }
        self.unreadable += other.unreadable;
        self.lost += other.lost;
        self.gathering += other.gathering;
        self.endangered += other.endangered;
        self.mending += other.mending;
        self.queued += other.queued;
        self.repair_read += other.repair_read;
        self.repair_written += other.repair_written;
        self.damaged += other.damaged;
        self.recoding += other.recoding;
    }
}

/// The pool as this node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Who we are.
    pub identity: Identity,
    /// The epoch of the pool's layout: greater for who knows more of its records.
    pub layout_epoch: u64,
    /// Every member, this one first.
    pub nodes: Vec<NodeInfo>,
    /// How safe the pool's data is, as the stewards among the live nodes say.
    pub health: HealthInfo,
    /// Live nodes that did not say how their stripes are: the counts lack theirs.
    pub silent: Vec<NodeId>,
    /// How many files of this person cannot be read now, when it was last looked.
    pub unreadable_files: u64,
    /// Some of them.
    pub unreadable_paths: Vec<SpacePath>,
    /// How many losses new data will survive by default.
    pub default_survive: u8,
    /// The most that can be asked for.
    pub survivable: u8,
    /// How new data is coded: data and parity shards.
    pub geometry: (u8, u8),
    /// What was removed and overwritten and can be brought back.
    pub trash: TrashInfo,
    /// Names that machines gave several values, since they did not know of each other; at most 1,000 of each space are counted.
    #[serde(default)]
    pub conflicts: u64,
    /// More of it within an hour than a person may have meant, and nobody has answered for it yet: it stays.
    pub masses: Vec<MassIn>,
    /// Where the person's key was replaced apart from this machine, what is theirs to decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rivals: Vec<Rival>,
    /// Machines that were restored from an older image of themselves, and go on with another history than the one that is kept here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parted: Vec<NodeId>,
    /// What to do about what is wrong, one sentence each.
    pub advice: Vec<String>,
}

/// A path in a space, as people write it: `photos:/2026`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SpacePath {
    /// What the person calls the space.
    pub space: SpaceName,
    /// The path in it.
    pub path: Path,
}

impl std::fmt::Display for SpacePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.space, self.path)
    }
}

/// A space of this person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpaceInfo {
    /// What they call it.
    pub name: SpaceName,
    /// Its id, which is the same for everyone.
    pub id: SpaceId,
    /// Whose it is; none while that is not known here.
    pub owner: Option<UserId>,
    /// What they want to be called.
    pub owner_name: Option<UserName>,
    /// Whether it is this person's.
    pub is_mine: bool,
    /// Whether this person may read what is written to it now; one who was taken out has what they had.
    pub may_read: bool,
    /// Whether this person may write to it.
    pub may_write: bool,
    /// Whether this person may let others in.
    #[serde(default)]
    pub may_share: bool,
    /// Whether another person has let this one in, who has not said yet that they want it.
    pub is_offered: bool,
    /// The directories that this person was let into, where that is not all of it, by the names that they have for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// How many files it has.
    pub files: u64,
    /// Their bytes. Content that several of them share counts for each.
    pub bytes: u64,
    /// What was removed and overwritten in it and can be brought back.
    pub trash: TrashInfo,
    /// When it was founded; none for the private one.
    pub created: Option<Timestamp>,
    /// Of one that was removed: until when it can be brought back.
    pub until: Option<Timestamp>,
    /// Whether its keys are here.
    pub is_here: bool,
    /// How many losses what is put there is to survive, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survive: Option<u8>,
    /// How long what is removed and overwritten there can be brought back, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
    /// How much it may hold, with what is in its trash, if that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteSize>,
    /// The regions where its data may be, if not everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regions: Option<Regions>,
    /// How many machines stand there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines_there: Option<u64>,
    /// What machines that have nothing of it yet need not replay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointInfo>,
    /// The checkpoint that this machine has taken its names from since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<CheckpointInfo>,
    /// How much of its history before a checkpoint is here; none when all is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<HistoryInfo>,
}

/// A checkpoint of a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckpointInfo {
    /// When it was made.
    pub made: Timestamp,
    /// How many entries of the space's history it stands for.
    pub entries: u64,
}

/// How much of a space's history is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HistoryInfo {
    /// So many entries.
    pub here: u64,
    /// Of so many.
    pub of: u64,
}

/// What is to become of something that can be set.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting<T> {
    /// It stays as it is.
    #[default]
    Unchanged,
    /// It is what it is where nothing was said.
    Usual,
    /// It is this.
    To(T),
}

impl<T> Setting<T> {
    /// The same in other words.
    pub fn map<U>(self, word: impl FnOnce(T) -> U) -> Setting<U> {
        match self {
            Self::Unchanged => Setting::Unchanged,
            Self::Usual => Setting::Usual,
            Self::To(value) => Setting::To(word(value)),
        }
    }

    /// What it was, changed like that.
    pub(crate) fn or(self, before: Option<T>) -> Option<T> {
        match self {
            Self::Unchanged => before,
            Self::Usual => None,
            Self::To(value) => Some(value),
        }
    }
}

/// What is to hold for all that is in a space.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SpaceOptions {
    /// How many losses what is put there is to survive, as far as the pool can give that.
    pub survive: Setting<u8>,
    /// How long what is removed and overwritten there can be brought back.
    pub retention: Setting<Duration>,
    /// How much it may hold, with what is in its trash.
    #[serde(default)]
    pub quota: Setting<ByteSize>,
    /// The regions where its data may be.
    #[serde(default)]
    pub regions: Setting<Regions>,
    /// Whether that is meant also where its files will be less safe.
    #[serde(default)]
    pub confirmed: bool,
}

/// A person of the pool.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Person {
    /// Their id.
    pub user: UserId,
    /// What they want to be called.
    pub name: Option<UserName>,
    /// Whether it is this node's person.
    pub is_me: bool,
    /// How many machines they have in the pool.
    pub machines: u64,
    /// Whether it is known how to wrap a key for them: any of their machines has told.
    pub can_be_let_in: bool,
}

impl Person {
    /// One who is in the pool no more.
    pub(crate) fn unknown(user: UserId) -> Self {
        Self {
            user,
            name: None,
            is_me: false,
            machines: 0,
            can_be_let_in: false,
        }
    }

    /// What others call them: their name, else the end of their id.
    pub fn called(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| self.user.short(), UserName::to_string)
    }
}

/// What a person may do in a space.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Access {
    /// Whether they may write.
    pub may_write: bool,
    /// Since when they may read.
    pub since: Option<Timestamp>,
    /// Until when; none: without an end.
    pub until: Option<Timestamp>,
    /// How many bytes may be there of what they have put, with what can be brought back; none: as many as the space may hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<ByteSize>,
    /// Whether they may let others in, who may do no more than they.
    #[serde(default)]
    pub may_share: bool,
}

/// A person who may read a space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Who.
    pub person: Person,
    /// Whether the space is theirs.
    pub is_owner: bool,
    /// What they may do.
    pub access: Access,
    /// The directory that this is about, where they were not let into all of it; there is one of these for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Path>,
    /// Who has let them in, if it was not the owner: they are in for as long as that person is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Person>,
    /// How many bytes there are of what their machines have put.
    #[serde(default)]
    pub used: ByteSize,
}

/// A directory of a space that a person was let into alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Which, as they see it.
    pub path: Path,
    /// Whether they may write there.
    pub may_write: bool,
    /// Until when they are in; none: without an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What a person could do in a space before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// In which directory; none: in all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Path>,
    /// Whether they could write there.
    pub may_write: bool,
}

/// One who was let into a space, and what that means for others.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LetIn {
    /// What they may do.
    #[serde(flatten)]
    pub member: Member,
    /// What they could do before, and cannot any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<Ended>,
    /// Whom they had let in, and who is out, as they may not let others in any more.
    #[serde(default)]
    pub out: Vec<Person>,
    /// Whom they had let in to write, and who can only read from now on.
    #[serde(default)]
    pub only_read: Vec<Person>,
}

/// One who was taken out of a space.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unshared {
    /// Who.
    pub person: Person,
    /// How many of their machines are not here: these learn of it when they are.
    pub away: u64,
    /// Whom they had let in, and who is out with them.
    #[serde(default)]
    pub with_them: Vec<Person>,
    /// How many links into the space that all of these had made were ended.
    #[serde(default)]
    pub links: u64,
}

/// What became of machines that were taken out of their person's hands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Revoked {
    /// Which.
    pub nodes: Vec<NodeId>,
    /// How many spaces of the person's, the private one included, have another key now.
    pub spaces: u64,
    /// How many of others, whose machines see to that.
    pub of_others: u64,
    /// How many links of the person's were ended, since the machine knew them.
    pub links: u64,
    /// The person's machines that are not here, and learn of it when they are.
    pub away: Vec<NodeId>,
    /// Those that run a version to which the new key cannot be given.
    pub unreached: Vec<NodeId>,
}

/// Another machine, or whoever has a lost one, has replaced the person's key apart from this machine, which does not go by it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rival {
    /// Names it: its key.
    pub id: UserId,
    /// When, by its clock.
    pub at: Timestamp,
    /// The machines that it takes out of the person's hands, without those that are out here, too.
    pub takes_out: Vec<NodeId>,
    /// Those that stay the person's by it.
    pub keeps: Vec<NodeId>,
    /// Whether this machine was given its key, and can replace both.
    pub can_be_reconciled: bool,
}

/// What came of following a machine that goes on with another history.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Followed {
    /// Which machine.
    pub node: NodeId,
    /// In how many spaces another history was kept here.
    pub spaces: u64,
    /// How many entries of it were dropped: the machine has said again what they said.
    pub dropped: u64,
}

/// What became of two rotations that were made apart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reconciled {
    /// The machines that are out of the person's hands.
    pub lost: Vec<NodeId>,
    /// The person's machines that are not here, and learn of it when they are.
    pub away: Vec<NodeId>,
    /// Those that run a version to which the new key cannot be given.
    pub unreached: Vec<NodeId>,
}

/// What the removal of a space has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceRemoval {
    /// Files that were in it.
    pub files: u64,
    /// Whether it was this person's: another's stays with them.
    pub is_mine: bool,
    /// Until when it can be brought back; none when it is gone.
    pub until: Option<Timestamp>,
}

/// More of a space within an hour than a person may have meant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MassIn {
    /// Of which space.
    pub space: SpaceName,
    /// How much, and when.
    #[serde(flatten)]
    pub mass: Mass,
}

/// How much the trash holds.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrashInfo {
    /// File versions.
    pub files: u64,
    /// Their bytes; content that several share counts for each.
    pub bytes: u64,
}

/// A file version in the trash.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trashed {
    /// Where it was; when its directory was moved since, where that is now.
    pub path: Path,
    /// Its length in bytes.
    pub len: u64,
    /// When it got its name.
    pub stored: Timestamp,
    /// When it lost it.
    pub removed: Timestamp,
    /// Whether another version took its name then.
    pub overwritten: bool,
    /// The machine that did it: its name, else the end of its id.
    pub machine: String,
    /// Until when it can be brought back.
    pub until: Timestamp,
    /// The snapshot that holds it beyond that, if there is one: the latest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Name>,
}

/// How to remove.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveOptions {
    /// A directory goes with all that is in it.
    pub recursive: bool,
    /// It is let go of at once, and so is what the trash has of it.
    pub now: bool,
    /// The person knows how much goes.
    pub confirmed: bool,
}

/// What a removal has done.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoveReport {
    /// Files that lost their names.
    pub files: u64,
    /// Until when they can be brought back.
    pub until: Option<Timestamp>,
    /// What went from the trash.
    pub emptied: Emptied,
    /// Of those that were to go for good, how many went to the trash: snapshots hold them.
    #[serde(default)]
    pub held: u64,
}

/// What was let go of that was in the trash.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emptied {
    /// File versions.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// File versions that stay: snapshots hold them.
    #[serde(default)]
    pub held: u64,
}

/// What to bring back.
#[derive(Clone, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreOptions {
    /// As it was then; else what was removed last.
    pub at: Option<Timestamp>,
    /// All that was removed and overwritten from then on: as it was then, or, of what came later, as it was last.
    pub since: Option<Timestamp>,
    /// This version of a file.
    #[serde(default)]
    pub version: Option<VersionId>,
    /// Where to; else where it was.
    pub to: Option<Path>,
}

/// What was brought back.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// Files that have their names again.
    pub files: u64,
    /// Files that had the names meanwhile, and are in the trash now.
    pub replaced: u64,
    /// Files whose content was given up by another machine at the same time, or whose name is a directory now: they are not brought back.
    pub skipped: u64,
    /// Until when those can be brought back that were replaced.
    pub until: Option<Timestamp>,
}

/// How this node looks from another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// The other.
    pub node: NodeId,
    /// How far its clock is ahead of this node's; negative when it is behind.
    pub clock_ahead_millis: i64,
    /// TCP addresses of this node, and whether something took a connection there.
    pub reached: Vec<(String, bool)>,
}

/// What a directory entry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// One name of a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes; 0 for a directory.
    pub len: u64,
    /// When it was last changed, as its owner's machine said.
    pub modified: Timestamp,
    /// Whether it may be run.
    pub executable: bool,
    /// The name that it was given, if it has this one only because it conflicts with what was said later of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy_of: Option<Name>,
}

/// A file in detail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stat {
    /// Where.
    pub path: Path,
    /// As listed.
    pub entry: Entry,
    /// How many losses it was made to survive.
    pub survives: u8,
    /// How many stripes hold it; none when it lives in its metadata.
    pub stripes: u64,
}

/// What is known of a file before its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileMeta {
    /// When it was last changed.
    pub modified: Timestamp,
    /// Whether it may be run.
    pub executable: bool,
}

/// How to put.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct PutOptions {
    /// Losses to survive; the pool's default when none.
    pub survive: Option<u8>,
    /// Whether to refuse when fewer domains are at hand than that needs.
    pub strict: bool,
    /// The person knows how much is overwritten.
    #[serde(default)]
    pub confirmed: bool,
}

/// What a put has done.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReport {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were in the space already, and are stored once.
    pub deduplicated: u64,
    /// Bytes of shards that were sent to nodes, this one included.
    pub stored: u64,
    /// Stripes that were stored on fewer domains than wanted, and will be mended first.
    pub degraded: u64,
    /// How many losses the data survives from now on.
    pub survives: u8,
    /// How many it will survive once all members are here and stay.
    pub wanted: u8,
}

/// How a departure goes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct LeaveProgress {
    /// Shards that are still only here, or not yet enough elsewhere.
    pub shards_left: u64,
    /// Shards at the start.
    pub shards_total: u64,
    /// Whether the node still means to leave: [`Node::stay`](crate::Node::stay) takes it back.
    pub is_leaving: bool,
}

/// A map from numbers: an object where people read, pairs on the wire, where map keys are text.
mod counts {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(counts: &BTreeMap<u8, u64>, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            counts.serialize(serializer)
        } else {
            serializer.collect_seq(counts)
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u8, u64>, D::Error> {
        if deserializer.is_human_readable() {
            BTreeMap::deserialize(deserializer)
        } else {
            Ok(Vec::<(u8, u64)>::deserialize(deserializer)?.into_iter().collect())
        }
    }
}
