//! What a person is told when something fails: a kind, a sentence and hints.
//!
//! Every error of the libraries becomes a [`Complaint`] here, and nowhere else. A complaint crosses the local socket
//! as it is, so the daemon's errors read like the command's own.

use potluck_node::{HomeError, JoinError, LinkError, NodeError, Refusal, ShardsError, StartError};
use potluck_spaces::TreeError;
use serde::{Deserialize, Serialize};
use std::{fmt, io, path::Path};

/// What sort of failure it is; decides the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// It was tried, and did not work.
    Failed,
    /// It was not asked for in a way that makes sense.
    Usage,
    /// There is no such file, directory or space.
    NotFound,
    /// No daemon runs on the home.
    NoDaemon,
    /// The daemon, the pool, or too much of it, does not answer.
    Unreachable,
    /// Somebody is not allowed to: a ticket, a permission, a lock.
    Refused,
}

impl Kind {
    /// The exit code of the process.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NoDaemon => 4,
            Self::Unreachable => 5,
            Self::Refused => 6,
        }
    }
}

const GOES_ON: &str = "nothing is half there: the same command again goes on where this one ended";

/// What happened, to what, and what to do now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Complaint {
    /// What sort of failure.
    pub(crate) kind: Kind,
    /// One sentence, without a full stop.
    pub(crate) message: String,
    /// What to do, most useful first.
    pub(crate) hints: Vec<String>,
    /// Whether a yes of the person is all that is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) asks: bool,
}

impl Complaint {
    /// A complaint without hints.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hints: Vec::new(),
            asks: false,
        }
    }

    /// Something was tried and did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Something was asked for wrongly.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The operating system refuses something about a local file.
    pub(crate) fn io(action: &str, file: &Path, error: &io::Error) -> Self {
        let complaint = Self::failed(format!("{action} {}: {error}", file.display()));
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self {
                kind: Kind::Refused,
                ..complaint.hint("check the owner and the permissions of it and of the folders above")
            },
            io::ErrorKind::StorageFull => complaint.hint("make room on that disk, or choose another one"),
            io::ErrorKind::NotFound => Self {
                kind: Kind::NotFound,
                ..complaint
            },
            _ => complaint,
        }
    }

    /// With one more hint.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// An error and all that caused it, in one sentence; a cause that its effect repeats is told once.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl From<HomeError> for Complaint {
    fn from(error: HomeError) -> Self {
        let message = sentence(&error);
        match &error {
            HomeError::Locked { .. } => Self::new(Kind::Refused, message)
                .hint("it may be the one you want: `potluck status` asks it, `potluck stop` ends it")
                .hint("another node on this machine needs a home of its own: `--home DIR`"),
            HomeError::Empty { .. } => Self::new(Kind::NotFound, message)
                .hint("found a pool here with `potluck up`, or join one with `potluck join TICKET`"),
            HomeError::Occupied { .. } => Self::new(Kind::Refused, message)
                .hint("start it with `potluck up`, or choose another home with `--home DIR`"),
            HomeError::Left { .. } => Self::new(Kind::Refused, message)
                .hint("to come back, join with a ticket in a new home: `potluck join TICKET --home DIR`")
                .hint("what this home still holds is of no use to the pool: it may be deleted"),
            HomeError::NeedsPassphrase { .. } => Self::new(Kind::Refused, message)
                .hint("give it with `--passphrase-file FILE`, in POTLUCK_PASSPHRASE, or when `potluck up` asks"),
            HomeError::WrongPassphrase { .. } => Self::new(Kind::Refused, message)
                .hint("if it is forgotten, come back in a new home: with a recovery kit, `potluck keys restore FILE --home NEW`, or with a ticket from another machine of yours, `potluck device add`"),
            HomeError::Exposed { file } => Self::new(Kind::Refused, message).hint(format!(
                "whoever read it can act as you; if nobody did: chmod 600 {}",
                file.display()
            )),
            HomeError::Anothers { .. } => Self::new(Kind::Refused, message)
                .hint("it has lost its database, and comes back to its pool, as its person: take a ticket of theirs, or choose another home with `--home DIR`"),
            HomeError::Damaged { file, .. } => Self::failed(message).hint("`potluck fsck` says what can be done").hint(format!(
                "restore {} from a backup; with a recovery kit: `potluck keys restore FILE --home NEW`",
                file.display()
            )),
            HomeError::Io { action, file, source } => Self::io(action, file, source),
            _ => Self::failed(message),
        }
    }
}

impl From<StartError> for Complaint {
    fn from(error: StartError) -> Self {
        let message = sentence(&error);
        match error {
            StartError::Home(error) => error.into(),
            StartError::Network(_) if message.to_lowercase().contains("in use") => Self::failed(message)
                .hint("another program has the port: choose one with `--listen 0.0.0.0:PORT`, or 0 for any"),
            StartError::Network(_) => Self::failed(message)
                .hint("is the address in `--listen` one of this machine's? is the port free (`ss -ltnp`)?"),
            StartError::Store(_) => Self::failed(message)
                .hint("`potluck doctor` says what is wrong with the disk")
                .hint("what cannot be mended: move HOME/store away and start again; the others of the pool make its shards anew"),
            StartError::Address(_) => Self::usage(message),
            StartError::PoolName(_) => Self::usage(message).hint("`--name` takes a name such as \"the Millers\""),
            _ => Self::failed(message),
        }
    }
}

impl From<JoinError> for Complaint {
    fn from(error: JoinError) -> Self {
        let message = sentence(&error);
        let new_ticket = "ask for a new one: `potluck invite` on the inviter's machine";
        match error {
            JoinError::Start(error) => error.into(),
            JoinError::Ticket(error) => error.into(),
            JoinError::Kit(error) => error.into(),
            JoinError::Expired(_) => Self::new(Kind::Refused, message).hint(new_ticket),
            JoinError::Unreachable { .. } => Self::new(Kind::Unreachable, message)
                .hint("is a member up, and can this machine reach its address and port? `potluck status` there shows its addresses")
                .hint("behind a router, forward the port and start the member with `--announce PUBLIC-IP:PORT`, or make the ticket on one that can be reached"),
            JoinError::Refused { refusal, .. } => {
                let complaint = Self::new(Kind::Refused, message);
                match refusal {
                    Refusal::Used => complaint.hint(new_ticket).hint("`invite --uses N` makes one for several machines"),
                    Refusal::Expired | Refusal::UnknownTicket => complaint.hint(new_ticket),
                    Refusal::TakenOut => complaint
                        .hint("if it is yours again: join from a new home, with a new ticket: `potluck device add` on a machine of yours, `potluck join TICKET --home DIR` here"),
                    Refusal::Replaced => complaint
                        .hint("a machine was revoked since: use a ticket or a kit that was made after that; on a machine of yours, `potluck device add` makes the one, `potluck keys backup FILE` the other"),
                    Refusal::OtherPool => complaint.hint("check that ticket and members belong together"),
                    Refusal::TooMany => complaint.hint("a node that left makes room: `potluck leave` there"),
                    _ => complaint,
                }
            }
            _ => Self::failed(message),
        }
    }
}

impl From<potluck_crypto::ParseTicketError> for Complaint {
    fn from(error: potluck_crypto::ParseTicketError) -> Self {
        use potluck_crypto::ParseTicketError as E;
        let complaint = Self::new(Kind::Refused, sentence(&error));
        match error {
            E::NotATicket | E::TooLong { .. } => complaint
                .hint("a ticket is what `potluck invite` prints; `potluck join -` reads it from standard input"),
            E::Typo => {
                complaint.hint("copy the whole text again, from `potluck1` to its end; line breaks do not matter")
            }
            _ => complaint,
        }
    }
}

impl From<potluck_crypto::ParseLinkError> for Complaint {
    fn from(error: potluck_crypto::ParseLinkError) -> Self {
        use potluck_crypto::ParseLinkError as E;
        let complaint = Self::usage(sentence(&error));
        match error {
            E::NotALink | E::TooLong { .. } => complaint.hint("a link is what `potluck link SPACE:/PATH` prints"),
            E::Typo => complaint.hint("copy the whole text again, from `potlink1` to its end"),
            _ => complaint,
        }
    }
}

impl From<LinkError> for Complaint {
    fn from(error: LinkError) -> Self {
        let message = sentence(&error);
        let another = "whoever made it can make another: `potluck link SPACE:/PATH`";
        match error {
            LinkError::OtherPool => {
                Self::new(Kind::Refused, message).hint("open it on a machine of that pool: links are for its members")
            }
            LinkError::Unknown => Self::new(Kind::NotFound, message)
                .hint("`potluck status` shows who is away; again when they are here")
                .hint(another),
            LinkError::Revoked | LinkError::Expired(_) | LinkError::UsedUp | LinkError::Gone(_) => {
                Self::new(Kind::Refused, message).hint(another)
            }
            LinkError::NeedsPassword => Self::usage(message)
                .hint("it is asked for; or give it with `--password-file FILE` or in POTLUCK_LINK_PASSWORD"),
            LinkError::WrongPassword => Self::new(Kind::Refused, message).hint("try again; capitals and spaces count"),
            LinkError::NotCounted { .. } => {
                Self::new(Kind::Unreachable, message).hint("again when that machine is here")
            }
            LinkError::TooLarge => Self::usage(message)
                .hint("link directories below it, or let people into the space: `potluck share SPACE --with PERSON`"),
            LinkError::Conflict(_) => Self::usage(message).hint("`potluck conflicts` shows them, and settles it"),
            LinkError::NoSuchLink(_) => Self::new(Kind::NotFound, message).hint("`potluck link ls` lists them"),
            LinkError::SeveralLinks(_) => {
                Self::usage(message).hint("type more of its id: `potluck link ls --json` has all of it")
            }
            _ => Self::failed(message),
        }
    }
}

impl From<potluck_crypto::KitError> for Complaint {
    fn from(error: potluck_crypto::KitError) -> Self {
        use potluck_crypto::KitError as E;
        let message = sentence(&error);
        match error {
            E::WrongPassphrase => Self::new(Kind::Refused, message).hint("try again; capitals and spaces count"),
            E::NotAKit => {
                Self::failed(message).hint("a recovery kit is the file that `potluck keys backup FILE` wrote")
            }
            E::Damaged => Self::failed(message).hint("use another copy of the kit"),
            _ => Self::failed(message),
        }
    }
}

impl From<NodeError> for Complaint {
    fn from(error: NodeError) -> Self {
        let message = sentence(&error);
        match error {
            NodeError::Tree(TreeError::NotFound(_)) => {
                Self::new(Kind::NotFound, message).hint("`potluck ls SPACE:/` shows what there is")
            }
            NodeError::Tree(TreeError::IsADirectory(_)) => {
                Self::failed(message).hint("`get PLACE FOLDER` fetches a directory, `rm -r` removes one; a file cannot take its name: rename one of them, or use another place")
            }
            NodeError::Tree(TreeError::Exists(_)) => Self::failed(message).hint("remove or rename that one first"),
            NodeError::Shards(ShardsError::TooFewDomains { .. }) => Self::new(Kind::Unreachable, message)
                .hint("`potluck status` shows which nodes are away or full; bring them back, or try again in a moment")
                .hint(GOES_ON),
            NodeError::Shards(ShardsError::NoRoom { .. }) => Self::failed(message)
                .hint("make room: remove files (`potluck rm --now`, `potluck trash --empty`), or invite another machine (`potluck invite`); `potluck status` shows who is full")
                .hint("or offer more: `potluck stop`, then `potluck up --capacity SIZE`; for good, as `capacity` in HOME/config.toml")
                .hint(format!("{GOES_ON}; `potluck sweep --abandoned-after 0s` frees what it has stored")),
            NodeError::Shards(ShardsError::Unreadable { .. }) => Self::new(Kind::Unreachable, message)
                .hint("bring back a node that is away (`potluck status` names them), then run the same command again")
                .hint("when none is away these bytes are lost: put the file again from its original"),
            NodeError::Shards(_) => Self::failed(message),
            NodeError::Geometry(_) => {
                Self::usage(message).hint("ask for fewer with `--survive`, or invite more machines: `potluck invite`")
            }
            NodeError::TooFewCustodians { .. } => Self::new(Kind::Unreachable, message)
                .hint("bring back a node that is away (`potluck status` names them), then run the same command again"),
            NodeError::Range { .. } => Self::usage(message).hint("the first byte is number 0"),
            NodeError::Behind { .. } => Self::new(Kind::Unreachable, message)
                .hint("without it nobody can say what no file uses; nothing was freed; try again in a moment"),
            NodeError::NotYours(_) => Self::new(Kind::Refused, message).hint("only its own person can take it out of the pool"),
            NodeError::NotLeaving => Self::new(Kind::Refused, message).hint("`potluck leave` begins again"),
            NodeError::DiskFull { .. } => Self::failed(message)
                .hint("make room on it, or remove files of the pool: `potluck rm --now` works on a full disk too"),
            NodeError::OverShare { .. } => Self::failed(message)
                .hint("`potluck rm --now` and `potluck trash --empty` make room; its owner may let you put more: `potluck share SPACE --with YOU --write --quota SIZE`"),
            NodeError::NoRegion { known, is_away, .. } => {
                let complaint = Self::new(if is_away { Kind::Unreachable } else { Kind::Refused }, message);
                let complaint = match is_away {
                    true => complaint.hint("bring one back: `potluck status` says where each stands"),
                    false => complaint.hint("machines say where they stand: `potluck up --region NAME`, for good as `region` in HOME/config.toml"),
                };
                match known.is_empty() || is_away {
                    true => complaint.hint("or let it be elsewhere too: `potluck space set SPACE --region eu,ch`"),
                    false => complaint.hint(format!("there are machines of {}", known.iter().map(|region| region.as_str()).collect::<Vec<_>>().join(", "))),
                }
            }
            NodeError::TooManyRegions => Self::usage(message),
            NodeError::OverQuota { .. } => Self::failed(message)
                .hint("`potluck rm --now` and `potluck trash --empty` make room; its owner may let it hold more: `potluck space set SPACE --quota SIZE`"),
            NodeError::LessSafe { .. } => Self {
                asks: true,
                ..Self::new(Kind::Refused, message).hint("nothing is done until you say yes: `--yes`").hint("with more machines there it survives more: `potluck invite`, and there `potluck up --region NAME`")
            },
            NodeError::Mass(_) => Self {
                asks: true,
                ..Self::new(Kind::Refused, message).hint("nothing more is done until you say yes: `--yes`")
            },
            NodeError::OutsidePart => Self::new(Kind::Refused, message)
                .hint("`potluck space ls` says what you may read and change"),
            NodeError::OnlyPart(_) => Self::new(Kind::Refused, message)
                .hint("`potluck space info SPACE` says who has all of it"),
            NodeError::WithinArea(path) => Self::usage(message)
                .hint(format!("share that: `--prefix {}`; or move this out of it first: `potluck mv`", crate::place::escape(&path.to_string()))),
            NodeError::AreaBelow => Self::usage(message)
                .hint("`potluck space info SPACE` says which directories are shared alone; move it elsewhere first: `potluck mv`"),
            NodeError::OtherArea(_) | NodeError::NotApart => Self::failed(message).hint("do it again"),
            NodeError::AllOfIt => Self::usage(message).hint("without `--prefix` it is about all of the space"),
            NodeError::Conflicting(_) => Self::usage(message)
                .hint("settle the conflict first: `potluck conflicts` shows how"),
            NodeError::TooMuchToCarry => Self::failed(message).hint("do it with the directories in it, one after the other"),
            NodeError::EraseConflict(_) => Self::usage(message)
                .hint("settle the conflict first: `potluck conflicts` shows how"),
            NodeError::EraseOthers(_) => Self::new(Kind::Refused, message)
                .hint("`potluck space info SPACE` says who its owner is"),
            NodeError::Erased(_) => Self::new(Kind::NotFound, message),
            NodeError::NotInTrash(_) => {
                Self::new(Kind::NotFound, message).hint("`potluck trash` shows what can be brought back")
            }
            NodeError::NoSuchVersion { .. } => {
                Self::new(Kind::NotFound, message).hint("`potluck versions` shows those that there are")
            }
            NodeError::SurvivesTooMany(_) | NodeError::KeptTooLong(_) => Self::usage(message),
            NodeError::TooManyDiffer => Self::failed(message).hint("name a directory below, or a later time"),
            NodeError::SnapshotExists(_) => Self::failed(message).hint("choose another name; `potluck snapshot ls` lists them"),
            NodeError::NoSuchSnapshot(_) => Self::new(Kind::NotFound, message).hint("`potluck snapshot ls` lists them"),
            NodeError::TooManySnapshots(_) => Self::failed(message).hint("`potluck snapshot rm` removes one"),
            NodeError::NoConflict(_) => Self::failed(message).hint("`potluck conflicts` shows what does"),
            NodeError::NoSuchSpace(_) => Self::new(Kind::NotFound, message)
                .hint("`potluck space ls --removed` shows yours; `potluck space create NAME` makes one"),
            NodeError::SpaceExists(_) => Self::failed(message).hint("choose another name; `potluck space mv` renames one"),
            NodeError::NamesNotHere | NodeError::SpaceNotHere(_) | NodeError::HistoryNotHere { .. } => Self::new(Kind::Unreachable, message)
                .hint("again in a moment; `potluck status` shows who is away"),
            NodeError::ReadOnly | NodeError::NoKey => {
                Self::new(Kind::Refused, message).hint("its owner may let you write: `potluck share SPACE --with YOU --write` there, with `--prefix` where it is one directory alone")
            }
            NodeError::NoKeyYet => Self::new(Kind::Unreachable, message).hint("again when another machine of yours is here; `potluck status` shows who is away"),
            NodeError::NotIn => Self::new(Kind::Refused, message).hint("its owner may let you in again: `potluck share SPACE --with YOU` there, with `--prefix` where it is one directory alone"),
            NodeError::HomeIsPrivate => Self::usage(message)
                .hint("`potluck space create NAME` makes one that you can share"),
            NodeError::NotYourSpace(space) => {
                let hint = format!("`potluck space info {space}` says whose it is");
                Self::new(Kind::Refused, message).hint(hint)
            }
            NodeError::MayNotShare(space) => {
                let hint = format!("`potluck space info {space}` says whose it is; they give leave to: `potluck share SPACE --with YOU --may-share` there");
                Self::new(Kind::Refused, message).hint(hint)
            }
            NodeError::NotYoursToGive { .. } => Self::new(Kind::Refused, message).hint("the owner of the space can; `potluck space info SPACE` says who that is, and what you may do"),
            NodeError::OverAlready => Self::usage(message).hint("`--expires 7d` is for a week"),
            NodeError::IsIn(_) => Self::usage(message).hint("`potluck space info SPACE` shows who may do what, and whose it is"),
            NodeError::NoSuchPerson(_) => Self::new(Kind::NotFound, message)
                .hint("`potluck people` lists them; `potluck id NAME` on their machine gives them a name"),
            NodeError::SeveralPeople(_) => Self::usage(message).hint("use the end of their id, as `potluck people` shows it"),
            NodeError::WithYourself => Self::usage(message).hint("your spaces are on all machines of yours already"),
            NodeError::NotReached(_) => Self::new(Kind::Unreachable, message)
                .hint("again when one of their machines is here, with this version or a later one"),
            NodeError::NotShared(_) => Self::new(Kind::NotFound, message).hint("`potluck space info SPACE` shows who may read it"),
            NodeError::NoSuchOffer(_) => Self::new(Kind::NotFound, message)
                .hint("`potluck space ls` shows what is shared with you; it may take a moment to arrive"),
            NodeError::SeveralOffers(_) => Self::usage(message).hint("use the end of its id, as `potluck space ls --json` shows it"),
            NodeError::SpaceStays(_) => Self::usage(message).hint("`potluck rm -r home:/` removes what is in it"),
            NodeError::TooManySpaces(_) => Self::failed(message).hint("one space takes any number of directories"),
            NodeError::Home(error) => error.into(),
            NodeError::NotSaid(_) => Self::new(Kind::Refused, message).hint("`potluck device ls` shows yours; type it again, and say yes if all others are to stay"),
            NodeError::OutAlready(_) => Self::new(Kind::Refused, message).hint("`potluck device ls` shows those that are yours"),
            NodeError::NoRival => Self::usage(message).hint("`potluck device ls` would show it"),
            NodeError::SeveralRivals => Self::usage(message).hint("say which was you: `potluck device reconcile ID`, as `potluck device ls` shows them"),
            NodeError::NotGiven => Self::new(Kind::Refused, message)
                .hint("type `potluck device reconcile` on a machine that both keep; if it was not you, there is nothing to reconcile: revoke what is lost"),
            NodeError::RevokeSelf => Self::usage(message).hint("do it on another machine of yours"),
            NodeError::OldKey => Self::new(Kind::Refused, message)
                .hint("it keeps what it holds; to go on with it: `potluck forget` it on another machine of yours, `potluck device add` there, and `potluck join TICKET --home DIR` here, with a new home"),
            NodeError::TooManyKeys => Self::failed(message).hint("join the pool as somebody else: `potluck invite`"),
            NodeError::TooManyMachines(_) => Self::failed(message).hint("let machines that you do not use leave: `potluck leave`"),
            NodeError::ForgetSelf => Self::usage(message).hint("`potluck leave` moves its data to the others first"),
            NodeError::Kit(error) => error.into(),
            NodeError::Link(error) => error.into(),
            NodeError::Stopping => Self::new(Kind::NoDaemon, message).hint("start it again: `potluck up --detach`"),
            _ if message.contains("No space left") => {
                Self::failed(message).hint("make room on the disk of the home; `potluck rm --now` works on a full disk too")
            }
            _ => Self::failed(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_node::{Loss, MassChange};
    use std::path::PathBuf;

    #[track_caller]
    fn check(complaint: impl Into<Complaint>, kind: Kind, hint: &str) {
        let complaint = complaint.into();
        assert_eq!(complaint.kind, kind, "{complaint:?}");
        assert!(
            complaint.hints.iter().any(|text| text.contains(hint)),
            "{complaint:?} lacks {hint:?}"
        );
    }

    #[test]
    fn an_error_has_a_kind_and_a_hint_that_helps() {
        let home = || PathBuf::from("/h");
        check(HomeError::Locked { home: home() }, Kind::Refused, "--home");
        check(HomeError::Exposed { file: home() }, Kind::Refused, "chmod 600 /h");
        let left = HomeError::Left {
            home: home(),
            pool: "p".into(),
        };
        check(left, Kind::Refused, "potluck join");
        check(
            HomeError::Occupied {
                home: home(),
                pool: "p".into(),
            },
            Kind::Refused,
            "potluck up",
        );
        check(
            StartError::from(HomeError::Empty { home: home() }),
            Kind::NotFound,
            "potluck join",
        );
        let refused = |refusal| JoinError::Refused {
            pool: "p".into(),
            refusal,
        };
        check(refused(Refusal::Used), Kind::Refused, "potluck invite");
        check(refused(Refusal::Expired), Kind::Refused, "potluck invite");
        check(
            JoinError::Unreachable {
                pool: "p".into(),
                reason: "r".into(),
            },
            Kind::Unreachable,
            "--announce",
        );
        check(
            "potlukc".parse::<potluck_crypto::Ticket>().unwrap_err(),
            Kind::Refused,
            "invite",
        );
        let path: potluck_spaces::Path = "/a".parse().unwrap();
        check(NodeError::Tree(TreeError::NotFound(path)), Kind::NotFound, "potluck ls");
        check(
            NodeError::TooFewCustodians { stored: 1, wanted: 3 },
            Kind::Unreachable,
            "status",
        );
        let few = ShardsError::TooFewDomains {
            stored: 1,
            wanted: 3,
            reason: "away".into(),
        };
        check(NodeError::Shards(few), Kind::Unreachable, "potluck status");
        let full = ShardsError::NoRoom {
            stored: 0,
            wanted: 1,
            reason: "the store is full".into(),
        };
        check(NodeError::Shards(full), Kind::Failed, "--capacity");
        check(NodeError::Stopping, Kind::NoDaemon, "up --detach");
        let mass = MassChange {
            loss: Loss::Remove,
            planned: 4812,
            lately: 0,
            of: 5000,
        };
        check(NodeError::Mass(mass), Kind::Refused, "--yes");
        assert!(Complaint::from(NodeError::Mass(mass)).asks);
    }

    #[test]
    fn a_full_disk_is_named() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let complaint = Complaint::io("cannot write", Path::new("/x"), &full);
        assert!(complaint.hints[0].contains("make room"));
    }

    #[test]
    fn exit_codes_differ() {
        let kinds = [
            Kind::Failed,
            Kind::Usage,
            Kind::NotFound,
            Kind::NoDaemon,
            Kind::Unreachable,
            Kind::Refused,
        ];
        let codes: Vec<u8> = kinds.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6]);
    }
}
