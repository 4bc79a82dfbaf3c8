//! What can go wrong, by what was asked for.

use crate::api::Which;
use potluck_crypto::SignedError;
use potluck_spaces::{AppendError, CharterError, CheckpointError, Name, Path, TreeError};
use potluck_types::{
    ByteSize, CodecError, NodeId, Region, Regions, SpaceName, StripeId, Timestamp,
    limits::{REGIONS_MAX, RESIDENCES_PER_USER_MAX},
};
use std::{io, path::PathBuf};

/// Why a record of the pool is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It is no record.
    #[error("the record is unreadable")]
    Codec(#[from] CodecError),
    /// It is not signed as it must be.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// It belongs to another pool.
    #[error("the record is of another pool")]
    OtherPool,
    /// Its signer is not (yet) known to be a member.
    #[error("the record's signer is not known as a member")]
    UnknownSigner,
    /// It claims another person's node, or key.
    #[error("the record claims what is another person's")]
    NotTheirs,
    /// Its signer's key was replaced since, and what took its place does not name it.
    #[error("the record was signed with a key that was replaced, and does not count")]
    Replaced,
    /// It is of a later version, or out of bounds.
    #[error("the record is of a later version, or out of bounds")]
    Version,
    /// The pool has as many nodes as it may have.
    #[error("the pool has as many nodes as it may have")]
    TooMany,
}

/// Why a home cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HomeError {
    /// Another node runs on it.
    #[error("another potluck runs on {home}")]
    Locked {
        /// The home.
        home: PathBuf,
    },
    /// It holds no pool yet.
    #[error("{home} belongs to no pool")]
    Empty {
        /// The home.
        home: PathBuf,
    },
    /// It holds a pool already.
    #[error("{home} belongs to the pool `{pool}` already")]
    Occupied {
        /// The home.
        home: PathBuf,
        /// The pool's name.
        pool: String,
    },
    /// It is another person's than the one who is to come back in it, or in another pool.
    #[error("{home} is the home of another person, or in another pool")]
    Anothers {
        /// The home.
        home: PathBuf,
    },
    /// Its node is no member any more: it left, or was taken out.
    #[error("the node of {home} has left the pool `{pool}`, or was taken out of it")]
    Left {
        /// The home.
        home: PathBuf,
        /// The pool's name.
        pool: String,
    },
    /// Its keys are under a passphrase.
    #[error("the keys of {home} are under a passphrase")]
    NeedsPassphrase {
        /// The home.
        home: PathBuf,
    },
    /// They are under another one.
    #[error("the passphrase does not open the keys of {home}")]
    WrongPassphrase {
        /// The home.
        home: PathBuf,
    },
    /// A key file can be read by others.
    #[error("{file} can be read by other users of this machine")]
    Exposed {
        /// The file.
        file: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{file} is damaged: {reason}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// In which way.
        reason: String,
    },
    /// The operating system refuses.
    #[error("{action} {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        file: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The metadata database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The shard store.
    #[error("the shard store does not open: {0}")]
    Store(#[from] potluck_store::OpenError),
    /// The network.
    #[error(transparent)]
    Network(#[from] potluck_net::StartError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// An address in the configuration.
    #[error(transparent)]
    Address(#[from] potluck_net::ParseAddressError),
    /// The pool's name is unusable.
    #[error("`{0}` is not a name for a pool: use 1 to 64 bytes without control characters")]
    PoolName(String),
}

/// Why a node cannot join a pool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The ticket.
    #[error(transparent)]
    Ticket(#[from] potluck_crypto::ParseTicketError),
    /// The recovery kit.
    #[error(transparent)]
    Kit(#[from] potluck_crypto::KitError),
    /// The node itself.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It ended.
    #[error("the ticket expired on {0}")]
    Expired(potluck_types::Timestamp),
    /// No member answers.
    #[error("no member of the pool `{pool}` can be reached: {reason}")]
    Unreachable {
        /// The pool's name.
        pool: String,
        /// What was tried.
        reason: String,
    },
    /// A member answers, and says no.
    #[error("the pool `{pool}` does not let this node in: {refusal}")]
    Refused {
        /// The pool's name.
        pool: String,
        /// Why.
        refusal: Refusal,
    },
    /// A member answers nonsense.
    #[error("the member that was asked gave an answer that makes no sense: {0}")]
    Nonsense(String),
}

/// Why a member says no.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Refusal {
    /// The ticket was used as often as it may be.
    #[error("the ticket has been used already")]
    Used,
    /// The ticket ended.
    #[error("the ticket has expired")]
    Expired,
    /// The member never made this ticket.
    #[error("the ticket is not known there: it was made by another node, or withdrawn")]
    UnknownTicket,
    /// The ticket or kit is for another pool.
    #[error("it is for another pool")]
    OtherPool,
    /// The person is no member.
    #[error("the person is not a member")]
    NotAMember,
    /// The node was a member, and is none any more.
    #[error("this machine was taken out of the pool")]
    TakenOut,
    /// The person has another key by now: their kit, or this machine's copy of their key, is older.
    #[error("the person's key was replaced since")]
    Replaced,
    /// The pool is full.
    #[error("the pool has as many nodes as it may have")]
    TooMany,
}

/// A database that says one thing here and another there: redb panics.
#[derive(Debug, thiserror::Error)]
#[error("its content contradicts itself")]
pub(crate) struct Contradiction;

/// Why the metadata database fails.
#[derive(Debug, thiserror::Error)]
#[error("the metadata database fails ({action}): {source}")]
pub struct MetaError {
    /// What was tried.
    pub action: &'static str,
    /// What it says.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl MetaError {
    /// Whether what is on the disk is not what was written there: not that it cannot be read just now, or is of another version.
    pub(crate) fn is_damage(&self) -> bool {
        let is_nonsense =
            |error: &io::Error| matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&*self.source);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return is_nonsense(error);
            }
            if error.is::<Contradiction>() {
                return true;
            }
            let storage = match error.downcast_ref::<redb::DatabaseError>() {
                Some(redb::DatabaseError::Storage(storage)) => Some(storage),
                _ => error.downcast_ref::<redb::StorageError>(),
            };
            match storage {
                Some(redb::StorageError::Corrupted(_)) => return true,
                Some(redb::StorageError::Io(error)) => return is_nonsense(error),
                _ => cause = error.source(),
            }
        }
        false
    }

    /// The tables of spaces cannot be written.
    pub(crate) fn writing(source: potluck_spaces::KvError) -> Self {
        Self {
            action: "writing",
            source,
        }
    }

    /// The tables of spaces cannot be read.
    pub(crate) fn reading(source: potluck_spaces::KvError) -> Self {
        Self {
            action: "reading",
            source,
        }
    }
}

/// Why a stripe cannot be stored or fetched.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ShardsError {
    /// Too few nodes took a shard.
    #[error("only {stored} of {wanted} shards could be stored, in too few failure domains: {reason}")]
    TooFewDomains {
        /// Shards stored.
        stored: u8,
        /// Shards that were to be.
        wanted: u8,
        /// What the last node that refused said.
        reason: String,
    },
    /// Enough nodes are here, but they have no room.
    #[error("the pool has no room for it: only {stored} of {wanted} shards could be stored ({reason})")]
    NoRoom {
        /// Shards stored.
        stored: u8,
        /// Shards that were to be.
        wanted: u8,
        /// What the last node that refused said.
        reason: String,
    },
    /// Too few shards answer.
    #[error("stripe {} cannot be read now: {have} of the {need} shards that it needs answer", .stripe.short())]
    Unreadable {
        /// The stripe.
        stripe: StripeId,
        /// Shards at hand.
        have: u8,
        /// Shards needed.
        need: u8,
    },
    /// What was fetched does not decode: the reference to it is wrong.
    #[error("stripe {} does not open: {reason}", .stripe.short())]
    Damaged {
        /// The stripe.
        stripe: StripeId,
        /// In which way.
        reason: String,
    },
}

/// Why a link cannot be made, opened or ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// It leads elsewhere.
    #[error("the link leads into another pool")]
    OtherPool,
    /// Nobody who is here knows of it.
    #[error("nobody who is here knows this link: it was withdrawn long ago, or who keeps it is away")]
    Unknown,
    /// It was ended.
    #[error("the link was withdrawn, or its time is over")]
    Revoked,
    /// Its time is over.
    #[error("the link ended at {0}")]
    Expired(Timestamp),
    /// It has a password.
    #[error("the link needs a password")]
    NeedsPassword,
    /// It has another password.
    #[error("the password is wrong")]
    WrongPassword,
    /// As many machines have read by it as may.
    #[error("the link was used on as many machines as it may be")]
    UsedUp,
    /// The machine that counts does not answer.
    #[error("{machine}, which counts who uses this link, does not answer: {reason}")]
    NotCounted {
        /// Which machine.
        machine: String,
        /// What came instead.
        reason: String,
    },
    /// What it leads to was removed.
    #[error("`{0}`, which the link leads to, was removed")]
    Gone(String),
    /// It shows more than a link may.
    #[error(
        "a link shows up to {} files, and there are more",
        potluck_types::limits::LINK_ENTRIES_MAX
    )]
    TooLarge,
    /// What is published of it is wrong.
    #[error("what is published of the link cannot be read: it was made by a later version, or is damaged")]
    Damaged,
    /// One of several versions of a file.
    #[error("{0} is one of several versions that conflict: give it a name of its own first")]
    Conflict(Path),
    /// This person has none like that.
    #[error("there is no link `{0}`")]
    NoSuchLink(String),
    /// This person has several like that.
    #[error("several links have ids that begin with `{0}`")]
    SeveralLinks(String),
}

/// Why a request of a person fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// Something about a link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No such file, a directory instead of a file, and so on.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Something in the log.
    #[error(transparent)]
    Log(#[from] AppendError),
    /// Something in the charter of a space.
    #[error(transparent)]
    Charter(#[from] CharterError),
    /// The metadata database.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// This person has no space of that name.
    #[error("there is no space `{0}`")]
    NoSuchSpace(SpaceName),
    /// The name is taken.
    #[error("there is a space `{0}` already")]
    SpaceExists(SpaceName),
    /// The machines that keep what a space needs do not answer.
    #[error("the space `{0}` is not here yet: no machine that keeps its keys has answered")]
    SpaceNotHere(SpaceName),
    /// The private space is a person's for ever.
    #[error("the space `{0}` is your own, and stays")]
    SpaceStays(SpaceName),
    /// There is a limit.
    #[error("you have {0} spaces, and can have no more")]
    TooManySpaces(usize),
    /// The person may not write there any more.
    #[error("the key that the space is written under is not known here: you may not write to it")]
    NoKey,
    /// The person's key was replaced, and what their space is sealed under from then on is not here yet.
    #[error("your key was replaced, and what your files are sealed under since has not come here yet")]
    NoKeyYet,
    /// The person may read the space, and not write to it.
    #[error("you may read this space, and not write to it")]
    ReadOnly,
    /// The person was taken out of the space, or their time in it is over.
    #[error("you are not in this space any more: you have what was there before, and nothing that is newer")]
    NotIn,
    /// The private space is for one person.
    #[error("the space `home` is yours alone")]
    HomeIsPrivate,
    /// Which of several versions that conflict is to go, cannot be told.
    #[error("{0} is one of several versions that conflict, and all of them would be erased")]
    EraseConflict(Path),
    /// Others have written of what was to be erased.
    #[error("others have written versions of it, or moved it ({}): they can erase what they have written, and the owner of the space can erase all", .0.join(", "))]
    EraseOthers(Vec<String>),
    /// Who was let into a part of a space does nothing elsewhere.
    #[error("it is outside of what you were let into, or may write to")]
    OutsidePart,
    /// What shares a sealed piece with others has to be stored anew first, and was not yet.
    #[error("others are putting files into it: what lies in one piece with them is not apart yet")]
    NotApart,
    /// Who was let into a part of a space does not know what the rest needs.
    #[error("only who has all of the space {0}, and you were let into a part of it")]
    OnlyPart(&'static str),
    /// A directory that is shared alone is all there is to share of it.
    #[error("{0} is shared alone, as a whole: what is in it is shared with those who have that")]
    WithinArea(Path),
    /// A directory that is shared alone holds none that is.
    #[error("a directory that is shared alone is in it, and would be in another")]
    AreaBelow,
    /// A directory is shared alone since something was begun in it.
    #[error("{0} is in a directory that is shared alone now, and was not when this was begun, or the other way round")]
    OtherArea(Path),
    /// The root is the whole space.
    #[error("the root is all of the space")]
    AllOfIt,
    /// A directory that is shared alone is one, and not two that conflict.
    #[error("several versions of {0} conflict")]
    Conflicting(Path),
    /// What is shared alone has to be made anew, at once.
    #[error("there is more in it than is made anew at once: {} names, or {}", crate::areas::NAMES_MAX, ByteSize(crate::areas::BYTES_MAX as u64))]
    TooMuchToCarry,
    /// Nobody can tell any more where a file's content is.
    #[error("the content of {0} was erased")]
    Erased(Path),
    /// Only a space's owner does this.
    #[error("the space `{0}` is another person's, and this is for them to do")]
    NotYourSpace(SpaceName),
    /// Only a space's owner lets people in, and who was given leave to.
    #[error("the space `{0}` is another person's, who has not said that you may let others in, or not for so long")]
    MayNotShare(SpaceName),
    /// A time that is over.
    #[error("nobody is let in for a time that is over")]
    OverAlready,
    /// Whoever was let in lets others in if that was said, and gives them no more than they have.
    #[error("you cannot let {person} {what}")]
    NotYoursToGive {
        /// Whom.
        person: String,
        /// What is refused, and why.
        what: &'static str,
    },
    /// The owner has said as much, or another who may.
    #[error("{0} may do as much already, and only the owner of the space says that somebody may do less")]
    IsIn(String),
    /// Nobody of the pool is called so.
    #[error("nobody in this pool is called `{0}`, or has an id that ends so")]
    NoSuchPerson(String),
    /// More than one is.
    #[error("several people in this pool are called `{0}`, or have ids that end so")]
    SeveralPeople(String),
    /// Nobody has to be let into what is theirs.
    #[error("that is you")]
    WithYourself,
    /// No machine of a person has told what messages for them are wrapped for.
    #[error("no machine of {0} has told yet how to reach them")]
    NotReached(String),
    /// The person was not let in.
    #[error("the space is not shared with {0}")]
    NotShared(String),
    /// Nobody has offered that.
    #[error("nobody has let you into a space `{0}`")]
    NoSuchOffer(String),
    /// Several people have.
    #[error("several people have let you into a space `{0}`")]
    SeveralOffers(String),
    /// The data.
    #[error(transparent)]
    Shards(#[from] ShardsError),
    /// More was asked for than the pool can give.
    #[error(transparent)]
    Geometry(#[from] potluck_placement::GeometryError),
    /// The directory entry could not be made durable on enough nodes.
    #[error(
        "the names could be stored on {stored} of {wanted} nodes only; they stay, and go to the others when these answer"
    )]
    TooFewCustodians {
        /// Nodes that have it.
        stored: usize,
        /// Nodes that should.
        wanted: usize,
    },
    /// The source of the bytes fails.
    #[error("reading {path}: {source}")]
    Source {
        /// For which file.
        path: Path,
        /// What it says.
        source: io::Error,
    },
    /// The range is outside the file.
    #[error("the range starts at {start}, and {path} has {len} bytes")]
    Range {
        /// Of which file.
        path: Path,
        /// Its length.
        len: u64,
        /// Where the range starts.
        start: u64,
    },
    /// Another node that keeps this person's names does not tell them.
    #[error("node {node} does not tell all that it knows of your files: {reason}")]
    Behind {
        /// The node.
        node: NodeId,
        /// What came instead.
        reason: String,
    },
    /// A node that is to be taken out of the pool is another person's, or none.
    #[error("{0} is no machine of yours in this pool")]
    NotYours(NodeId),
    /// Of a machine of the person's it was not said whether it stays.
    #[error("{0} is a machine of yours, too, and it was not said whether it stays")]
    NotSaid(NodeId),
    /// A machine that is to be revoked was already.
    #[error("{0} is out of your hands already")]
    OutAlready(NodeId),
    /// No machine of the person's has replaced the key apart from the others.
    #[error("no other machine of yours has replaced your key apart from this one")]
    NoRival,
    /// Several machines have replaced the person's key apart, and it was not said which is meant.
    #[error("your key was replaced apart from this machine more than once")]
    SeveralRivals,
    /// A rotation that was made apart has no key for this machine.
    #[error("who has replaced your key apart from this machine has given it no key")]
    NotGiven,
    /// The keys in the home cannot be changed.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// A machine that is to be revoked is this one.
    #[error("this machine cannot take itself out of your hands")]
    RevokeSelf,
    /// The person's key was replaced, and this machine was not given the next.
    #[error("your key was replaced, and this machine was not given the next")]
    OldKey,
    /// The person has had as many keys as one may have.
    #[error("your key was replaced as often as it can be: {} times", potluck_types::limits::USER_KEYS_MAX - 1)]
    TooManyKeys,
    /// The record that replaces a key names all machines of its person.
    #[error("{0} machines are more than one record can give another key to")]
    TooManyMachines(usize),
    /// The departure was taken back.
    #[error("this node stays: its departure was taken back")]
    NotLeaving,
    /// The disk of the home is full: only what frees room is taken.
    #[error("the disk of {home} is full")]
    DiskFull {
        /// The home.
        home: PathBuf,
    },
    /// There would be more of what a person has put into a space than its owner has said that there may be.
    #[error(
        "you may put {quota} there, and {used} of yours are there with what is in the trash: this would be {more} more"
    )]
    OverShare {
        /// How much may be there.
        quota: ByteSize,
        /// How much is.
        used: ByteSize,
        /// How much more it would be.
        more: ByteSize,
    },
    /// No machine stands where the data of a space may be, or none that is here.
    #[error("no machine of {} {}", .regions.iter().map(Region::as_str).collect::<Vec<_>>().join(" or "), if *.is_away { "is here, and the space may be nowhere else" } else { "is in the pool" })]
    NoRegion {
        /// Where the data may be.
        regions: Regions,
        /// Regions where machines of the pool stand.
        known: Regions,
        /// Whether there are such machines, and none is here.
        is_away: bool,
    },
    /// Files would survive less than now where the space is to be kept.
    #[error("with its data in {} only it survives the loss of {after}, in place of {before} machines: is that what you want?", .regions.iter().map(Region::as_str).collect::<Vec<_>>().join(" and "))]
    LessSafe {
        /// Where it is to be kept.
        regions: Regions,
        /// What data there survives now.
        before: u8,
        /// What it would survive.
        after: u8,
    },
    /// A checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A checkpoint ends in the middle of a page.
    #[error("the checkpoint ends in the middle of a page")]
    CheckpointEnds,
    /// The names of a space were taken from a checkpoint, and what was said before that did not all come yet.
    #[error(
        "of the space's history {here} of {of} entries are here so far, and no machine that has the others answers"
    )]
    HistoryNotHere {
        /// How many are here.
        here: u64,
        /// How many there are.
        of: u64,
    },
    /// Nothing of a space has come here yet.
    #[error("nothing of what is in the space is known here: the machines that keep its names are away")]
    NamesNotHere,
    /// This machine stands where the data of a space may not be.
    #[error("it stands where the data of this space may not be")]
    Outside,
    /// A space was to be kept in more regions than can be said, or too many spaces were.
    #[error(
        "a space can name {REGIONS_MAX} regions, and a person can say of {RESIDENCES_PER_USER_MAX} spaces where they may be"
    )]
    TooManyRegions,
    /// A space would hold more than its owner has said that it may.
    #[error(
        "the space may hold {quota}, and holds {used} with what is in its trash ({kept}): this would be {more} more"
    )]
    OverQuota {
        /// How much it may hold.
        quota: ByteSize,
        /// How much it holds.
        used: ByteSize,
        /// How much of that is in its trash.
        kept: ByteSize,
        /// How much more it would be.
        more: ByteSize,
    },
    /// More would be removed or overwritten than a person may have meant: they are asked first.
    #[error("{0}")]
    Mass(crate::rails::MassChange),
    /// Nothing of it can be brought back.
    #[error("the trash has nothing of {0}: it never was there, its time is over, or it was let go of or erased")]
    NotInTrash(Path),
    /// No version of a path is the one that was asked for.
    #[error("{path} has no {}", told(*.which))]
    NoSuchVersion {
        /// Which path.
        path: Path,
        /// Which version.
        which: Which,
    },
    /// A space cannot be as safe as that.
    #[error("no pool survives more than {0} losses")]
    SurvivesTooMany(u8),
    /// A space cannot keep what is removed for so long; this many days at most.
    #[error("nothing is kept for more than {0} days")]
    KeptTooLong(u64),
    /// There is a limit.
    #[error("more than {} files differ", potluck_types::limits::DIFFERENCES_MAX)]
    TooManyDiffer,
    /// The name is taken.
    #[error("there is a snapshot `{0}` already")]
    SnapshotExists(Name),
    /// The space has none of that name.
    #[error("there is no snapshot `{0}`")]
    NoSuchSnapshot(Name),
    /// There is a limit.
    #[error("the space has {0} snapshots, and can have no more")]
    TooManySnapshots(usize),
    /// Nothing conflicts.
    #[error("nothing conflicts with {0}")]
    NoConflict(Path),
    /// It is this one.
    #[error("this node cannot forget itself")]
    ForgetSelf,
    /// The recovery kit cannot be made.
    #[error(transparent)]
    Kit(#[from] potluck_crypto::KitError),
    /// The shard store.
    #[error("the shard store fails: {0}")]
    Store(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// What a person asked for.
fn told(which: Which) -> String {
    match which {
        Which::Latest => "version".to_owned(),
        Which::Version(id) => format!("version {id}"),
        Which::At(at) => format!("version of {at}"),
    }
}
