//! What a person types.

use crate::{
    config::Settings,
    moment::Moment,
    place::{ByteRange, Place, Spot},
    span::Span,
};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueHint};
use potluck_node::{Path, Setting, VersionId, Which};
use potluck_types::{
    ByteSize, MachineName, ParseUnitError, Region, Regions, SpaceName, Timestamp, UserName, Zone,
    limits::LINK_READERS_MAX,
};
use std::{error::Error, path::PathBuf, str::FromStr};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  not asked for in a way that makes sense
  3  no such file, directory, space or pool
  4  no daemon runs on the home
  5  the daemon, the pool, or too much of it, does not answer
  6  refused: a ticket, a permission, a lock
  130  interrupted with Ctrl-C

Files:
  HOME/config.toml      the configuration: listen, announce, capacity, zone, region, machine, mdns, relay, grace,
                        fsync, retention, mass_change_share
  HOME/log/potluck.log  the log of a daemon started with --detach

Environment:
  POTLUCK_HOME, POTLUCK_TICKET, POTLUCK_PASSPHRASE, POTLUCK_LINK_PASSWORD; POTLUCK_LISTEN and so on for each key of the configuration; RUST_LOG";

const START: &str = "\
Start here:
  potluck demo                 see it work: six nodes on this machine, two of them killed
  potluck up --detach          found a pool, and run its first node
  potluck invite               make a ticket for another machine
  potluck join TICKET          run there
  potluck put DIR home:/       store a tree; `potluck get home:/DIR` fetches it on any machine of yours

`potluck --help` also lists exit codes, files and environment variables.";

fn long_help() -> String {
    format!("{START}\n\n{EXIT_CODES}")
}

/// Peer-to-peer storage: files encrypted here, spread over the machines of a pool, whole again when some of them are gone.
#[derive(Debug, Parser)]
#[command(name = "potluck", version, max_term_width = 110, after_help = START, after_long_help = long_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The folder of the node: keys, shards, configuration [default: ~/.local/share/potluck]
    #[arg(long, global = true, value_name = "DIR", env = "POTLUCK_HOME", value_hint = ValueHint::DirPath, hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// Print JSON, also for errors
    ///
    /// What lists (`ls`, `log`, `versions`, `access` and such) and `status --watch` print one document a line; `cat`, and `get` to `-`, print the file as it is.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Answer every question with yes
    #[arg(long, short, global = true)]
    pub(crate) yes: bool,
    /// Print results and errors only
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Log more; twice for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run this machine's node; founds a pool the first time
    Up {
        #[command(flatten)]
        run: Run,
        /// The name of the pool, when it is founded
        #[arg(long, value_name = "POOL")]
        name: Option<String>,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Join a pool with a ticket, then run as `up` does
    ///
    /// A home that has lost its database, or that `fsck --repair` has found beyond repair, comes back as the machine that it was.
    Join {
        /// The ticket, or `-` to read it from standard input
        #[arg(env = "POTLUCK_TICKET", hide_env_values = true)]
        ticket: String,
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Make a ticket that lets other machines into the pool
    Invite {
        /// How many machines may join with it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
        /// How long it is good for, up to 365d
        #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = ticket_life)]
        expires: Span,
        /// For one more machine of yours: it opens your private space
        #[arg(long)]
        mine: bool,
    },
    /// Store files: encrypted, and spread over the pool
    Put(Put),
    /// Fetch a file or a tree
    Get {
        /// What: `home:/photos`, or a link; `-` for one on standard input, where no list of commands keeps it
        #[arg(value_name = "SPACE:/PATH")]
        place: Spot,
        /// Where to: a file, a folder, or `-` for standard output. A tree's content comes into it; files that are
        /// there already, with the same size and time, are left alone [default: its name, here]
        #[arg(value_hint = ValueHint::AnyPath)]
        dest: Option<PathBuf>,
        /// Only these bytes: `0-99`, `100-`, or `-100` for the last hundred
        #[arg(long, value_name = "FIRST-LAST", allow_hyphen_values = true)]
        range: Option<ByteRange>,
        #[command(flatten)]
        which: OfVersion,
        #[command(flatten)]
        password: LinkPassword,
    },
    /// List a directory; with `--json`, each name as a document on a line of its own
    Ls {
        /// Which: a place, or a link and a path below it; `-` for one on standard input
        #[arg(value_name = "SPACE:/PATH", default_value = "home:/")]
        place: Spot,
        /// With size and time
        #[arg(short, long)]
        long: bool,
        /// And all below it
        #[arg(short, long)]
        recursive: bool,
        #[command(flatten)]
        password: LinkPassword,
    },
    /// Print files
    Cat {
        /// Which; also links, and paths below them; `-` for one on standard input
        #[arg(value_name = "SPACE:/PATH", required = true)]
        places: Vec<Spot>,
        #[command(flatten)]
        which: OfVersion,
        #[command(flatten)]
        password: LinkPassword,
    },
    /// List the versions of a file: the one that it has, those that conflict with it, and those that can be brought back
    ///
    /// `potluck get --version` and `cat --version` read one, `restore --version` brings it back.
    Versions {
        /// Which file, also one that was removed
        #[arg(value_name = "SPACE:/PATH")]
        place: Place,
    },
    /// List what was done in a space, by whom and when, the latest first
    ///
    /// Each line is from an entry of a machine's log, which that machine has signed.
    Log {
        /// Only with this and below it [default: all of your spaces, one after the other]
        #[arg(value_name = "SPACE:/PATH")]
        place: Option<Place>,
        /// From then on: `2026-11-26T03:00:00Z`, a day, or `2h` for two hours ago
        #[arg(long, value_name = "TIME")]
        since: Option<Moment>,
        /// So many lines at most
        #[arg(short = 'n', long, value_name = "LINES")]
        lines: Option<u64>,
    },
    /// Show who could read and write in a space, since when, and who said so; its links, too
    Access {
        /// Which
        #[arg(value_name = "SPACE", default_value = "home")]
        space: SpaceName,
    },
    /// Check the history of a space: every signature, the order of all changes, who was allowed to make them, and whether other machines have the same
    ///
    /// Its digest is the same for all who have the same history: two people who compare theirs know that nobody shows them different ones.
    Verify {
        /// Which
        #[arg(value_name = "SPACE", default_value = "home")]
        space: SpaceName,
    },
    /// Write all that a space holds about a path into a folder: files, earlier versions, who did what, who could read it, and where it is
    ///
    /// The folder is readable by you alone. What had another name before is exported by that name.
    Export {
        /// What: `work:/people/anna`, or a whole space
        #[arg(value_name = "SPACE:/PATH")]
        place: Place,
        /// A new folder
        #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
    /// Show what has changed: of a directory which files, of a file which lines
    ///
    /// What was let go of for good since is not shown, and what is in a directory that was renamed counts as new.
    Diff(Diff),
    /// List files that were changed on several machines that did not know of each other, or say what is to become of them
    ///
    /// The version that was written last has the name; each other one is shown beside it, under a name that says which machine wrote it when. All of them
    /// can be read, moved and removed like any file.
    Conflicts {
        /// Only below this; with `--keep` and `--keep-all`: one of the versions [default: all of your spaces]
        #[arg(value_name = "SPACE[:/PATH]", value_parser = place_or_space)]
        place: Option<Place>,
        /// Keep this version under the file's name; the others go to the trash
        #[arg(long, requires = "place")]
        keep: bool,
        /// Keep all of them, each as a file with the name that it is shown under
        #[arg(long, requires = "place", conflicts_with = "keep")]
        keep_all: bool,
    },
    /// Remove files; they can be brought back for 30 days, or as long as the space says, or `retention` in the configuration
    Rm {
        /// Which
        #[arg(value_name = "SPACE:/PATH", required = true)]
        places: Vec<Place>,
        /// Directories with all that is in them
        #[arg(short, long)]
        recursive: bool,
        /// For good, together with what the trash has of them: their room is free at once
        #[arg(long)]
        now: bool,
    },
    /// Erase a file, or a directory with all that is in it, for ever: with all earlier versions, also those that snapshots hold
    ///
    /// The keys to it are destroyed on every machine that keeps them, and what they opened is freed. It says which machines have nothing of it any more, and which are away: these
    /// drop what they have as soon as they are back and hear of it. That there was a file of this name can still be told from the history of the space. What somebody has copied out of the pool
    /// nobody can erase.
    Erase {
        /// Which
        #[arg(value_name = "SPACE:/PATH", required_unless_present = "pending")]
        place: Option<Place>,
        /// Ask again the machines that had not heard of what was erased before on this one
        #[arg(long, conflicts_with = "place")]
        pending: bool,
    },
    /// Show what was removed and overwritten, and can be brought back
    Trash {
        /// Only below this [default: all of your spaces]
        #[arg(value_name = "SPACE:/PATH")]
        place: Option<Place>,
        /// Let go of it now: its room is free at once, and nobody can bring it back
        #[arg(long)]
        empty: bool,
        /// Say that you meant what `status` asks about: so much removed or overwritten at once
        #[arg(long, conflicts_with_all = ["empty", "place"])]
        accept: bool,
    },
    /// Bring back what was removed or overwritten: a file, or a directory with all that was removed below it
    ///
    /// What has the name meanwhile goes to the trash, and can be brought back the same way.
    Restore {
        /// What
        #[arg(value_name = "SPACE:/PATH")]
        place: Place,
        /// As it was then: `2026-11-26T03:00:00Z`, a day, or `2h` for two hours ago. In a directory, what was overwritten since is brought back
        /// as well, and what came since stays [default: what was removed or overwritten last]
        #[arg(long, value_name = "TIME")]
        at: Option<Moment>,
        /// All that was removed and overwritten from then on, as `status` says after much went at once
        #[arg(long, value_name = "TIME", conflicts_with = "at")]
        since: Option<Moment>,
        /// This version of a file, as `potluck versions` shows them
        #[arg(long, value_name = "VERSION", conflicts_with_all = ["at", "since"])]
        version: Option<VersionId>,
        /// To another place, which must be free
        #[arg(long, value_name = "SPACE:/PATH")]
        to: Option<Place>,
    },
    /// Make and name spaces: each is encrypted under a key of its own
    #[command(subcommand)]
    Space(Space),
    /// Let another person of the pool into a space of yours, or into one whose owner has said that you may
    Share {
        /// Which
        #[arg(value_name = "SPACE")]
        space: SpaceName,
        /// Whom: their name, or their id or the end of it, as `potluck people` shows them
        #[arg(long, value_name = "PERSON")]
        with: String,
        /// Only into this directory, with all that is in it: they see nothing else of the space
        #[arg(long, value_name = "PATH")]
        prefix: Option<Path>,
        /// They may change it, too
        #[arg(long)]
        write: bool,
        /// How much of what they put may be there, with what is in the trash: `5GB` [default: as much as the space may hold]
        #[arg(long, value_name = "SIZE", requires = "write")]
        quota: Option<ByteSize>,
        /// They may let others in, who may do no more than they, and who are out when they are; with `--quota`: to read
        #[arg(long)]
        may_share: bool,
        /// For so long; what they have read by then they may keep [default: until you take them out]
        #[arg(long, value_name = "SPAN")]
        expires: Option<Span>,
    },
    /// Take a person out of a space: what is written from then on is sealed under a key that they do not have
    Unshare {
        /// Which
        #[arg(value_name = "SPACE")]
        space: SpaceName,
        /// Whom
        #[arg(long, value_name = "PERSON")]
        with: String,
        /// Only out of this directory, that they were let into; what else they were let into stays theirs
        #[arg(long, value_name = "PATH")]
        prefix: Option<Path>,
    },
    /// Take a space that another person has let you into: `potluck space ls` shows them
    Accept {
        /// What its owner calls it, or the end of its id
        #[arg(value_name = "SPACE")]
        offer: String,
        /// What you call it [default: as its owner does]
        #[arg(long = "as", value_name = "NAME")]
        called: Option<SpaceName>,
    },
    /// Your machines: let one more in, or take a lost one out of your hands
    #[command(subcommand)]
    Device(Device),
    /// Name what a space is now, so that it can be brought back whatever becomes of it
    ///
    /// A snapshot takes no time and no room. What is removed and overwritten while it is there takes room for as long as it is.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Make a link: whoever of the pool has it may read a file or directory, without being let into the space
    ///
    /// It shows what is there when it is opened, also what came later: the machines of who made it see to that, when they are on.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Link(Link),
    /// Show who you are: your name, your id, and your machines
    Whoami,
    /// Say what others of the pool should call you
    Id {
        /// The name
        #[arg(value_name = "NAME")]
        name: UserName,
    },
    /// List the people of the pool
    People,
    /// Show what is known of a file
    Stat {
        /// Which; also below a link
        #[arg(value_name = "SPACE:/PATH")]
        place: Spot,
        #[command(flatten)]
        password: LinkPassword,
    },
    /// Show where a file is, how many losses it survives, and what is being done for it; in a directory, all files below it
    Explain {
        /// Which
        #[arg(value_name = "SPACE:/PATH")]
        place: Place,
        /// Let every machine prove a random part of each shard
        #[arg(long)]
        check: bool,
    },
    /// Rename or move a file or directory; directories that it moves into are made
    Mv {
        /// What
        #[arg(value_name = "FROM")]
        from: Place,
        /// Its new place, or the directory that it comes into
        #[arg(value_name = "TO")]
        to: Place,
    },
    /// Show nodes, what is safe, and what is being repaired
    Status {
        /// Show it again and again, until Ctrl-C; with `--json`, each time as a document on a line of its own
        #[arg(long, short)]
        watch: bool,
    },
    /// Leave the pool: move this node's shards to the others first
    Leave {
        /// Leave at once: what only this node holds is lost
        #[arg(long)]
        force: bool,
        /// Stay after all: what has moved away comes back where it belongs
        #[arg(long, conflicts_with = "force")]
        cancel: bool,
    },
    /// Take a machine of yours that is lost for good out of the pool
    Forget {
        /// Its name, or its id or the end of it, as `potluck status` shows them
        #[arg(value_name = "NODE")]
        node: String,
        /// Also when it is here: for one that is no longer yours
        #[arg(long)]
        force: bool,
    },
    /// Back up or restore your keys, or put them under a passphrase
    #[command(subcommand)]
    Keys(Keys),
    /// Check this machine's part of the pool, and name remedies
    Doctor,
    /// Check the home of a node that does not run: keys, names, and every shard
    ///
    /// Reads everything, and changes nothing without `--repair`. That repairs what follows from the rest, gives up shards that are damaged, which the
    /// pool makes anew, and moves what it takes out of the home to HOME/lost+found.
    Fsck {
        /// Put right what can be
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Free at once what uploads that broke off have left, and what was in the trash for its time, and make the checkpoints that are due; else it takes up to a day, and some hours
    Sweep {
        /// How long ago an upload must have broken off; one that is begun again later sends everything again
        #[arg(long, value_name = "SPAN", default_value = "24h")]
        abandoned_after: Span,
    },
    /// End the daemon
    Stop,
    /// Print the configuration that holds
    Config,
    /// See the main job done: six nodes on this machine, two of them killed, every byte compared
    Demo {
        /// A file or folder to store [default: this folder, if it is a checkout, without `.git` and `target`]
        #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
        input: Option<PathBuf>,
        /// Leave the pool running, and say how to use it
        #[arg(long)]
        keep: bool,
    },
    /// Measure how fast this machine does it, against what it can do at best
    Bench {
        /// The length of the large file; 0 leaves it out
        #[arg(long, value_name = "SIZE", default_value = "2GiB")]
        size: ByteSize,
        /// How many nodes the pool has
        #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=20))]
        nodes: u8,
        /// How many small files are stored; 0 leaves them out
        #[arg(long, value_name = "N", default_value_t = 10_000)]
        files: u64,
        /// How many files a node has when its start and its memory are measured; 0 leaves it out
        #[arg(long, value_name = "N", default_value_t = 100_000)]
        objects: u64,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder
    Man {
        /// The folder
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
}

/// The longest that a ticket may be good for: one that is forgotten does not stay a door for ever.
const TICKET_LIFE_MAX: Span = Span::seconds(365 * 86_400);

fn ticket_life(text: &str) -> Result<Span, Box<dyn Error + Send + Sync>> {
    let life: Span = text.parse()?;
    if (1..=TICKET_LIFE_MAX.duration().as_secs()).contains(&life.duration().as_secs()) {
        Ok(life)
    } else {
        Err(format!("a ticket is good for 1s at least, and {TICKET_LIFE_MAX} at most").into())
    }
}

/// How a node runs. What is given at the first start is kept in the configuration.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    /// Where to listen, `IP:PORT`; port 0 picks one [default: 0.0.0.0:4720]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// An address to announce beside those found: that of a router that forwards the port, say
    #[arg(long, value_name = "ADDR")]
    pub(crate) announce: Vec<String>,
    /// What the pool may use of this disk: `200GB` [default: half of what is free]
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<ByteSize>,
    /// The failure domain of this machine: a house, a rack. Machines of one zone are expected to fail together [default: itself]
    #[arg(long, value_name = "NAME")]
    pub(crate) zone: Option<Zone>,
    /// Where this machine stands: a country, a jurisdiction. Spaces can be kept in some regions only: `potluck space create NAME --region eu`
    #[arg(long, value_name = "NAME")]
    pub(crate) region: Option<Region>,
    /// What this machine is called in the pool [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) machine: Option<MachineName>,
    /// Do not look for members on the local network
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// Do not carry what members behind routers say to each other
    #[arg(long)]
    pub(crate) no_relay: bool,
    /// How long an absent machine is waited for before its shards are made anew [default: 15m]
    #[arg(long, value_name = "SPAN")]
    pub(crate) grace: Option<Span>,
    /// Run in the background, with the log in HOME/log/potluck.log
    #[arg(long)]
    pub(crate) detach: bool,
    /// Run in a session of its own: what `--detach` starts.
    #[arg(long, hide = true)]
    pub(crate) session: bool,
    /// End when standard input does: what `demo` starts.
    #[arg(long, hide = true)]
    pub(crate) tied: bool,
}

/// Which version of a file.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct OfVersion {
    /// As it was then: `2026-11-26T03:00:00Z`, a day, or `2h` for two hours ago
    #[arg(long, value_name = "TIME")]
    at: Option<Moment>,
    /// This version, as `potluck versions` shows them
    #[arg(long, value_name = "VERSION", conflicts_with = "at")]
    version: Option<VersionId>,
}

impl OfVersion {
    /// Which, when it is `now`.
    pub(crate) fn resolve(self, now: Timestamp) -> Which {
        match (self.version, self.at) {
            (Some(version), _) => Which::Version(version),
            (None, Some(at)) => Which::At(at.resolve(now)),
            (None, None) => Which::Latest,
        }
    }
}

impl Command {
    /// Whether this process becomes a node.
    pub(crate) fn runs_node(&self) -> bool {
        match self {
            Self::Up { run, .. } | Self::Join { run, .. } | Self::Keys(Keys::Restore { run, .. }) => !run.detach,
            _ => false,
        }
    }
}

impl Run {
    /// What was typed.
    pub(crate) fn settings(&self) -> Settings {
        let list = |list: &[String]| (!list.is_empty()).then(|| list.to_owned());
        Settings {
            listen: list(&self.listen),
            announce: list(&self.announce),
            capacity: self.capacity,
            zone: self.zone.clone(),
            region: self.region.clone(),
            machine: self.machine.clone(),
            mdns: self.no_mdns.then_some(false),
            relay: self.no_relay.then_some(false),
            grace: self.grace,
            fsync: None,
            retention: None,
            mass_change_share: None,
        }
    }
}

/// What to put.
#[derive(Clone, Debug, Args)]
pub(crate) struct Put {
    /// Files and folders, or `-` for standard input, which SPACE:/PATH then names
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// The directory to put them into, each under its own name
    #[arg(value_name = "SPACE:/DIR")]
    pub(crate) place: Place,
    /// How many machines may be lost with nothing lost [default: as `status` says]
    #[arg(long, value_name = "F")]
    pub(crate) survive: Option<u8>,
    /// Refuse when fewer machines are at hand than that needs, instead of mending it later
    #[arg(long)]
    pub(crate) strict: bool,
    /// Leave out files and folders of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude: Vec<String>,
    /// The one PATH gets the place itself as its name, instead of going into it
    #[arg(long = "no-target-directory", short = 'T')]
    pub(crate) exact: bool,
}

/// Something that can be set, or left to what is usual.
fn setting<T: FromStr<Err: Error + Send + Sync + 'static>>(
    text: &str,
) -> Result<Setting<T>, Box<dyn Error + Send + Sync>> {
    match text {
        "default" => Ok(Setting::Usual),
        _ => Ok(Setting::To(text.parse()?)),
    }
}

/// Regions as they are typed: with commas between them.
#[derive(Clone, Debug)]
pub(crate) struct RegionList(pub(crate) Regions);

impl FromStr for RegionList {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, ParseUnitError> {
        let regions = text.split(',').map(|region| region.trim().parse());
        regions.collect::<Result<_, _>>().map(Self)
    }
}

/// What to do with spaces.
#[derive(Debug, Subcommand)]
pub(crate) enum Space {
    /// Found a space: `photos:/` is a place from then on, on all machines of yours
    Create {
        /// What it is to be called
        #[arg(value_name = "SPACE")]
        name: SpaceName,
        /// How many lost machines what is put there is to survive, as far as the pool can give that [default: 2, and fewer in a small pool]
        #[arg(long, value_name = "LOSSES")]
        survive: Option<u8>,
        /// How long what is removed and overwritten there can be brought back: `90d` [default: `retention` in the configuration, 30 days]
        #[arg(long, value_name = "SPAN")]
        keep_versions: Option<Span>,
        /// How much it may hold, with what is in its trash: `50GB` [default: as much as the pool has room for]
        #[arg(long, value_name = "SIZE")]
        quota: Option<ByteSize>,
        /// Keep its data on machines of these regions only: `eu`, or `eu,ch`. Machines say where they stand: `potluck up --region eu` [default: on all]
        #[arg(long, value_name = "REGION,...")]
        region: Option<RegionList>,
    },
    /// Say what is to hold in a space from now on, on all machines: how much it is to survive, how long what is removed is kept, how much it may hold, and where
    ///
    /// What was put before keeps the safety that it was put with, and what was removed before the time that it had; what lies where it may not be is moved.
    #[command(group(ArgGroup::new("what").required(true).multiple(true).args(["survive", "keep_versions", "quota", "region"])))]
    Set {
        /// Which
        #[arg(value_name = "SPACE")]
        name: SpaceName,
        /// How many lost machines what is put there is to survive, as far as the pool can give that; or `default`
        #[arg(long, value_name = "LOSSES", value_parser = setting::<u8>)]
        survive: Option<Setting<u8>>,
        /// How long what is removed and overwritten there can be brought back; or `default`
        #[arg(long, value_name = "SPAN", value_parser = setting::<Span>)]
        keep_versions: Option<Setting<Span>>,
        /// How much it may hold, with what is in its trash; or `default`. Who removes from it may do so also where it holds more
        #[arg(long, value_name = "SIZE", value_parser = setting::<ByteSize>)]
        quota: Option<Setting<ByteSize>>,
        /// Keep its data on machines of these regions only: `eu`, or `eu,ch`; or `default` for all machines
        #[arg(long, value_name = "REGION,...", value_parser = setting::<RegionList>)]
        region: Option<Setting<RegionList>>,
    },
    /// List your spaces
    Ls {
        /// And those that were removed and can be brought back
        #[arg(long)]
        removed: bool,
    },
    /// Show a space in detail
    Info {
        /// Which
        #[arg(value_name = "SPACE", default_value = "home")]
        name: SpaceName,
    },
    /// Give a space another name
    Mv {
        /// Which
        #[arg(value_name = "SPACE")]
        from: SpaceName,
        /// What it is to be called
        #[arg(value_name = "NAME")]
        to: SpaceName,
    },
    /// Remove a space with all that is in it; it can be brought back for 30 days, or as long as `space set home` or `retention` in the configuration says
    Rm {
        /// Which
        #[arg(value_name = "SPACE")]
        name: SpaceName,
        /// For good: its room is free at once. Also of one that was removed before
        #[arg(long)]
        now: bool,
    },
    /// Bring back a space that was removed
    Restore {
        /// Which
        #[arg(value_name = "SPACE")]
        name: SpaceName,
    },
}

/// What to compare, and with what.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// A directory, or a file
    #[arg(value_name = "SPACE[:/PATH]", value_parser = place_or_space)]
    pub(crate) place: Place,
    /// With what there was then: `2026-11-26T03:00:00Z`, a day, or `2h` for two hours ago
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// With what a snapshot has
    #[arg(long, value_name = "NAME", conflicts_with = "since")]
    pub(crate) snapshot: Option<String>,
    /// Of a file: with this version, as `potluck versions` shows them [default: the one before]
    #[arg(long, value_name = "VERSION", conflicts_with_all = ["since", "snapshot"])]
    pub(crate) version: Option<VersionId>,
}

/// What to do with the machines of a person.
#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Print a ticket for one more: it opens all that is yours (the same as `invite --mine`)
    Add {
        /// How many machines may join with it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        uses: u32,
        /// How long it is good for, up to 365d
        #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = ticket_life)]
        expires: Span,
    },
    /// List them
    Ls,
    /// Take out what is lost, or in another's hands: your key is replaced, so that it reads nothing that comes later, and nothing that it says counts
    Revoke {
        /// Its name, or its id or the end of it, as `device ls` shows them; of one that left or was forgotten its whole id
        #[arg(value_name = "MACHINE", required = true)]
        machines: Vec<String>,
    },
    /// Take what a machine stands by that was restored from an older image of itself, where this one has heard only of what it wrote before it knew: `status` names it
    ///
    /// It may be another person's. What it has given up is dropped here; it has said again what that said, and both machines have to be on.
    Follow {
        /// Its name, or its id or the end of it, as `status` shows them
        #[arg(value_name = "MACHINE")]
        machine: String,
    },
    /// Where two machines of yours have each revoked, and did not know of each other: what either took out is out, and all others go on together
    Reconcile {
        /// Which, where there are several: its id or the end of it, as `device ls` shows it
        #[arg(value_name = "ID")]
        which: Option<String>,
    },
}

/// What to do with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Take one
    Create {
        /// Of which space
        #[arg(value_name = "SPACE")]
        space: SpaceName,
        /// What it is to be called [default: the time]
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// List them, and what they hold that is not there any more
    Ls {
        /// Only those of this space
        #[arg(value_name = "SPACE")]
        space: Option<SpaceName>,
    },
    /// Bring back what was removed and overwritten since; what came since stays
    Restore {
        /// The space, or only this and below it
        #[arg(value_name = "SPACE[:/PATH]", value_parser = place_or_space)]
        place: Place,
        /// Which snapshot
        #[arg(value_name = "NAME")]
        name: String,
        /// To another place of the space
        #[arg(long, value_name = "SPACE:/PATH")]
        to: Option<Place>,
    },
    /// Remove one: what it alone holds goes with what else is in the trash for its time
    Rm {
        /// Of which space
        #[arg(value_name = "SPACE")]
        space: SpaceName,
        /// Which
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// A place, or a space for its root.
fn place_or_space(text: &str) -> Result<Place, Box<dyn Error + Send + Sync>> {
    match text.parse::<SpaceName>() {
        Ok(space) => Ok(Place::root_of(space)),
        Err(_) => Ok(text.parse()?),
    }
}

/// A link to make, or what to do with those that there are.
#[derive(Debug, Args)]
pub(crate) struct Link {
    #[command(subcommand)]
    pub(crate) wish: Option<LinkWish>,
    /// What it leads to
    #[arg(value_name = "SPACE:/PATH", required = true)]
    pub(crate) place: Option<Place>,
    #[command(flatten)]
    pub(crate) options: LinkOptions,
}

/// What is to hold for a link.
#[derive(Debug, Args)]
pub(crate) struct LinkOptions {
    /// For so long: `7d` [default: until you end it]
    #[arg(long, value_name = "SPAN")]
    pub(crate) expires: Option<Span>,
    /// With a password, which is asked for, and which whoever opens the link must know, too
    #[arg(long)]
    pub(crate) password: bool,
    /// The file whose first line is that password, or `-` for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,
    /// On so many machines at most; this one counts them, and must be on when another opens the link for the first time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(LINK_READERS_MAX)))]
    pub(crate) max_downloads: Option<u32>,
}

/// What to do with links.
#[derive(Debug, Subcommand)]
pub(crate) enum LinkWish {
    /// List the links into your spaces
    Ls {
        /// Only into this one
        #[arg(value_name = "SPACE")]
        space: Option<SpaceName>,
        /// With the links themselves, those that you made
        #[arg(long)]
        show: bool,
    },
    /// End a link: it opens nothing any more
    Revoke {
        /// The link, or the start of its id as `potluck link ls` shows it
        #[arg(value_name = "LINK")]
        link: String,
    },
}

/// Where the password of a link comes from: this file, else `POTLUCK_LINK_PASSWORD`, else a prompt.
#[derive(Clone, Debug, Args)]
pub(crate) struct LinkPassword {
    /// For a link with a password: the file whose first line it is, or `-` for standard input [default: asks, or POTLUCK_LINK_PASSWORD]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) password_file: Option<PathBuf>,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Write a recovery kit: one file and a passphrase that bring you back when all your machines are lost
    Backup {
        /// The file to write
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Put the keys in this home under a passphrase, which `up` asks for from then on; the same again for another one. The node has to run
    Lock {
        #[command(flatten)]
        passphrase: Passphrase,
    },
    /// Take them out from under it. The node has to run, and nothing is asked: it has the keys already
    Unlock,
    /// Come back on a fresh machine with a recovery kit, then run as `up` does
    Restore {
        /// The file
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        #[command(flatten)]
        passphrase: Passphrase,
        #[command(flatten)]
        run: Run,
    },
}

/// Where the passphrase comes from: this file, else `POTLUCK_PASSPHRASE`, else a prompt. Never the command line, which others can see.
#[derive(Clone, Debug, Args)]
pub(crate) struct Passphrase {
    /// The file whose first line is the passphrase, or `-` for standard input [default: asks, or POTLUCK_PASSPHRASE]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_readme_knows_the_same_exit_codes() {
        let readme = include_str!("../../../README.md");
        for line in EXIT_CODES.lines().skip(1).take_while(|line| !line.is_empty()) {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            assert!(readme.contains(&format!("| {code} | {meaning} |")), "{line}");
        }
    }

    #[test]
    fn a_ticket_ends_and_lives() {
        let check = |life: &str, good: bool| {
            let typed = Cli::try_parse_from(["potluck", "invite", "--expires", life]);
            assert_eq!(typed.is_ok(), good, "{life}");
        };
        check("1s", true);
        check("365d", true);
        check("0s", false);
        check("366d", false);
    }

    #[test]
    fn a_kit_and_its_passphrase_are_two_files() {
        let typed = [
            "potluck",
            "keys",
            "restore",
            "kit.age",
            "--passphrase-file",
            "-",
            "--session",
        ];
        let Command::Keys(Keys::Restore { file, passphrase, .. }) = Cli::try_parse_from(typed).unwrap().command else {
            panic!("not a restore")
        };
        assert_eq!((file, passphrase.passphrase_file), ("kit.age".into(), Some("-".into())));
    }

    #[test]
    fn the_last_of_many_is_the_place() {
        let cli = Cli::try_parse_from(["potluck", "put", "a", "b", "home:/c", "--survive", "1"]).unwrap();
        let Command::Put(put) = cli.command else {
            panic!("not a put")
        };
        assert_eq!((put.paths.len(), put.place.to_string()), (2, "home:/c".to_owned()));
    }
}
