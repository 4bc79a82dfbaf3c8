//! The daemon: one process a home, in the foreground or detached.

use crate::{
    cli::Run,
    complaint::{Complaint, Kind, sentence},
    config::{self, Settings},
    fresh::Fresh,
    heap,
    local::{
        client,
        message::{About, Request},
        server::{self, Service},
        socket,
    },
    terminal::Terminal,
};
use potluck_crypto::Passphrase;
use potluck_node::{Identity, Node, NodeConfig};
use potluck_types::ByteSize;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// How long a detached daemon may take until it answers: joining may try many addresses.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is asked.
const START_POLL: Duration = Duration::from_millis(20);
/// How long the node may take to stop when it is told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// A log over this is set aside at the next start.
const LOG_BYTES_MAX: u64 = 10 << 20;
/// Lines of the log that a failed start shows.
const LOG_LINES_SHOWN: usize = 15;
/// Open files that a daemon asks for: packs, and connections to a thousand members.
const OPEN_FILES_WANTED: u64 = 65_536;

/// How a node comes to its pool.
#[derive(Debug)]
pub(crate) enum Entrance {
    /// The home has one, or founds one of this name.
    Up(Option<String>),
    /// With a ticket.
    Join(String),
    /// With a recovery kit.
    Restore(Box<potluck_crypto::Kit>),
}

/// Runs a node until it is told to stop.
pub(crate) fn run(
    home: &Path,
    run: &Run,
    entrance: Entrance,
    passphrase: Option<&str>,
    terminal: Terminal,
) -> Result<(), Complaint> {
    if run.session {
        // Fails for the leader of a session only, which is what is wanted.
        let _ = rustix::process::setsid();
    }
    raise_open_files();
    heap::keep_freed_blocks();
    refuse_running(home)?;
    let fresh = Fresh::look(home)?;
    let (mut config, kept) = configure(home, run, terminal)?;
    config.passphrase = passphrase.map(Passphrase::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Complaint::failed(format!("the runtime does not start: {error}")))?;
    runtime.block_on(async {
        let (about, is_new) = (
            config.clone(),
            matches!(entrance, Entrance::Up(_)) && !Node::has_pool(home),
        );
        let node = enter(config, entrance).await.inspect_err(|why| fresh.undo(why))?;
        // Not before the node runs: the home is ours from then on, and was perhaps another's before.
        kept.keep(home)?;
        live(node, &about, run.tied, is_new, terminal).await
    })
}

/// One that runs is told of at once, also when it hangs. One that is about to end answers no more, and its home is waited for.
pub(crate) fn refuse_running(home: &Path) -> Result<(), Complaint> {
    match client::call::<About>(home, &Request::About) {
        Ok(about) => Err(Complaint::new(
            Kind::Refused,
            format!("a daemon runs on {} already: process {}", home.display(), about.pid),
        )
        .hint("it may be the one you want: `potluck status` asks it, `potluck stop` ends it")
        .hint("another node on this machine needs a home of its own: `--home DIR`")),
        Err(complaint) if complaint.kind == Kind::Unreachable => Err(complaint),
        Err(_) => Ok(()),
    }
}

/// The node's configuration, and what of it is to be kept at the first start.
fn configure(home: &Path, run: &Run, terminal: Terminal) -> Result<(NodeConfig, Settings), Complaint> {
    let typed = run.settings();
    let effective = Settings::effective(typed.clone(), home)?;
    let file = config::file(home);
    if file.exists() && typed.clone().over(Settings::from_home(home)?) != Settings::from_home(home)? {
        terminal.note(&format!(
            "What is given here holds for this run; {} keeps what holds always.",
            file.display()
        ));
    }
    let config = effective.node_config(home)?;
    if let Some(free) = config::free_bytes(home)
        .ok()
        .filter(|free| config.capacity.0 > *free && !Node::has_pool(home))
    {
        let (capacity, free) = (config.capacity, ByteSize(free));
        terminal.note(&format!(
            "{capacity} are offered, and {free} are free: the pool counts on more than there is."
        ));
    }
    // What is free changes from day to day; what was promised to the pool does not.
    let kept = Settings {
        capacity: Some(config.capacity),
        ..typed
    };
    Ok((config, kept))
}

async fn enter(config: NodeConfig, entrance: Entrance) -> Result<Node, Complaint> {
    match entrance {
        Entrance::Join(ticket) => Ok(Node::join(config, ticket.trim()).await?),
        Entrance::Restore(kit) => Ok(Node::restore(config, &kit).await?),
        Entrance::Up(name) if Node::has_pool(&config.home) => match name {
            Some(_) => Err(
                Complaint::usage("the home belongs to a pool already, which keeps its name")
                    .hint("leave `--name` out, or choose another home with `--home DIR`"),
            ),
            None => Ok(Node::start(config).await?),
        },
        Entrance::Up(name) => {
            let name = name.unwrap_or_else(default_pool_name);
            Ok(Node::found(config, &name).await?)
        }
    }
}

fn default_pool_name() -> String {
    match std::env::var("USER").or_else(|_| std::env::var("LOGNAME")) {
        Ok(user) if !user.is_empty() && user.len() < 50 => format!("{user}'s pool"),
        _ => "potluck".to_owned(),
    }
}

async fn live(node: Node, config: &NodeConfig, tied: bool, is_new: bool, terminal: Terminal) -> Result<(), Complaint> {
    let listener = socket::bind(&config.home)?;
    let listener = tokio::net::UnixListener::from_std(listener)
        .map_err(|error| Complaint::failed(format!("the local socket does not work: {error}")))?;
    let identity = node.identity();
    let about = About {
        identity: identity.clone(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: config.capacity,
        grace_seconds: config.grace.as_secs(),
        open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(0),
    };
    let service = Arc::new(Service {
        node: node.clone(),
        about,
        stop: Notify::new(),
    });
    terminal.result(&identity, || welcome(&identity, config, is_new));
    tracing::info!(node = %identity.node, pool = %identity.pool_name, addresses = ?identity.addresses, "up");
    let serving = tokio::spawn(server::serve(listener, Arc::clone(&service)));
    let why = wait_for_end(&node, &service.stop, tied).await;
    if let Ok(why) = why {
        tracing::info!(why, "stopping");
        terminal.note(&format!("Stopping: {why}."));
    }
    socket::remove(&config.home);
    serving.abort();
    if tokio::time::timeout(STOP_TIMEOUT, node.stop()).await.is_err() {
        tracing::warn!("the node took too long to stop, and is left as it is; the next start checks it");
    }
    why.map(drop)
}

async fn wait_for_end(node: &Node, stop: &Notify, tied: bool) -> Result<&'static str, Complaint> {
    let failed = |error| Complaint::failed(format!("signals cannot be waited for: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => "terminated",
        _ = hangup.recv() => "hung up",
        () = stop.notified() => "a command said so",
        () = node.taken_out() => "this node was taken out of the pool",
        () = node.gives_way() => return Err(copied(node)),
        () = input_ends(), if tied => "whoever started it ended",
    })
}

/// Two processes with one key would each answer for the other.
fn copied(node: &Node) -> Complaint {
    let home = node.home().display();
    Complaint::new(
        Kind::Refused,
        format!("another machine runs with the identity of {home}: one of the two homes is a copy of the other"),
    )
    .hint("if the other is the one to stay, this one joins anew, in a home of its own: `potluck invite --mine` there, `potluck join TICKET --home DIR` here")
    .hint("if this one is, stop the other first: `potluck stop` there; what was written here stays, and goes to the others then")
}

/// On a thread of its own: one of the runtime's would keep the process from ending.
async fn input_ends() {
    let (ended, end) = tokio::sync::oneshot::channel::<()>();
    thread::spawn(move || {
        let mut bytes = [0; 64];
        while std::io::stdin().read(&mut bytes).is_ok_and(|len| len > 0) {}
        drop(ended);
    });
    // The sender is dropped, never used: this is the end either way.
    let _ = end.await;
}

/// What `up` says first: who, where, and what to do with it.
fn welcome(identity: &Identity, config: &NodeConfig, is_new: bool) -> String {
    let home = config.home.display();
    let option = if Some(config.home.as_path()) == config::default_home(|name| std::env::var(name).ok()).as_deref() {
        String::new()
    } else {
        format!(" --home {home}")
    };
    let addresses = if identity.addresses.is_empty() {
        "nowhere".to_owned()
    } else {
        identity.addresses.join("\n              ")
    };
    format!(
        "The pool `{}` is {}.\n  node        {}\n  listens on  {addresses}\n  home        {home}\n  offers      {}\n\n\
         In another terminal:\n  potluck invite{option}            a ticket for another machine\n  \
         potluck put DIR home:/{option}    store a folder\n  potluck status{option}            who is here, what is safe\n\
         Ctrl-C stops this node; its data stays.",
        crate::place::escape(&identity.pool_name),
        if is_new {
            "founded, and this is its first node"
        } else {
            "up"
        },
        identity.node,
        config.capacity,
    )
}

fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(OPEN_FILES_WANTED, |most| most.min(OPEN_FILES_WANTED));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit on open files cannot be raised");
        }
    }
}

/// What a detached daemon is given on its standard input: no other user can read it there.
#[derive(Debug)]
pub(crate) struct Detached<'a> {
    /// Its arguments.
    pub(crate) arguments: Vec<std::ffi::OsString>,
    /// A ticket or a passphrase.
    pub(crate) secret: Option<&'a str>,
}

/// Starts this program again in the background, and waits until it answers.
pub(crate) fn detach(home: &Path, run: &Run, detached: &Detached<'_>, terminal: Terminal) -> Result<(), Complaint> {
    refuse_running(home)?;
    let fresh = Fresh::look(home)?;
    // For what is wrong with it, and what it says, to be read here and not in a log.
    configure(home, run, terminal)?;
    launch(home, detached, terminal).inspect_err(|why| fresh.undo(why))
}

fn launch(home: &Path, detached: &Detached<'_>, terminal: Terminal) -> Result<(), Complaint> {
    config::make_home(home)?;
    let (log_path, mut log) = open_log(home)?;
    let start = log.seek(SeekFrom::End(0)).unwrap_or(0);
    let failed = |error: std::io::Error| Complaint::failed(format!("the daemon does not start: {}", sentence(&error)));
    let program = std::env::current_exe().map_err(failed)?;
    let twin = || log.try_clone().map(Stdio::from).map_err(failed);
    let mut child = Command::new(program)
        .args(&detached.arguments)
        .arg("--session")
        .stdin(if detached.secret.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(twin()?)
        .stderr(twin()?)
        .spawn()
        .map_err(failed)?;
    if let (Some(secret), Some(mut input)) = (detached.secret, child.stdin.take()) {
        // If it has ended, its log says why.
        let _ = input.write_all(secret.as_bytes());
    }
    let begun = Instant::now();
    loop {
        if let Ok(about) = client::call::<About>(home, &Request::About) {
            let value =
                serde_json::json!({ "pid": about.pid, "home": home, "log": log_path, "identity": about.identity });
            terminal.result(&value, || {
                format!(
                    "The pool `{}` is up: process {}, node {}, listening on {}.\nIts log is {}.",
                    crate::place::escape(&about.identity.pool_name),
                    about.pid,
                    about.identity.node.short(),
                    about.identity.addresses.first().map_or("nothing", String::as_str),
                    log_path.display(),
                )
            });
            return Ok(());
        }
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Err(not_started(&log_path, start, status.code()));
        }
        if begun.elapsed() > START_TIMEOUT {
            return Err(Complaint::failed(format!(
                "the daemon does not answer after {} s",
                START_TIMEOUT.as_secs()
            ))
            .hint(format!(
                "process {} still tries; its log is {}",
                child.id(),
                log_path.display()
            )));
        }
        thread::sleep(START_POLL);
    }
}

fn open_log(home: &Path) -> Result<(PathBuf, File), Complaint> {
    let folder = home.join("log");
    let path = folder.join("potluck.log");
    let failed = |error: std::io::Error| Complaint::io("cannot open the log", &path, &error);
    fs::create_dir_all(&folder).map_err(failed)?;
    if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        fs::rename(&path, folder.join("potluck.log.1")).map_err(failed)?;
    }
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    Ok((path, log))
}

/// What the daemon itself said last: its complaint, if it had one.
fn not_started(log_path: &Path, start: u64, code: Option<i32>) -> Complaint {
    let mut text = String::new();
    if let Ok(mut log) = File::open(log_path) {
        let _ = log
            .seek(SeekFrom::Start(start))
            .and_then(|_| log.read_to_string(&mut text));
    }
    let kind = match code {
        Some(2) => Kind::Usage,
        Some(3) => Kind::NotFound,
        Some(5) => Kind::Unreachable,
        Some(6) => Kind::Refused,
        _ => Kind::Failed,
    };
    if let Some(error) = text.lines().rev().find_map(|line| line.strip_prefix("error: ")) {
        let mut complaint = Complaint::new(kind, error);
        complaint.hints.extend(
            text.lines()
                .filter_map(|line| line.strip_prefix("hint: "))
                .map(str::to_owned),
        );
        return complaint;
    }
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
    Complaint::new(
        kind,
        format!("the daemon did not start; the end of {}:\n{last}", log_path.display()),
    )
}
