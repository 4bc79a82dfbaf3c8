//! One function a command. Each takes what was typed, and prints what came of it.

mod access;
mod device;
mod diff;
mod doctor;
mod documents;
mod erase;
mod explain;
mod export;
mod failure;
pub(crate) mod files;
mod fsck;
pub(crate) mod get;
mod history;
mod keys;
mod link;
mod people;
mod pool;
pub(crate) mod put;
mod snapshot;
mod space;
pub(crate) mod status;
mod trash;

use crate::{
    bench,
    cli::{Cli, Command, Keys, Run},
    complaint::Complaint,
    config::{self, Settings},
    daemon::{self, Detached, Entrance},
    demo,
    terminal::Terminal,
};
use potluck_node::{Access, RemoveOptions, Settling};
use potluck_types::{Clock, SystemClock, Timestamp};
use std::{
    ffi::OsString,
    io::Read,
    path::{Path, PathBuf},
};

/// Does what was typed.
pub(crate) fn run(cli: Cli, terminal: Terminal) -> Result<(), Complaint> {
    let home = || home(cli.global.home.clone());
    match cli.command {
        Command::Up { run, name, passphrase } => {
            let home = home()?;
            let passphrase = keys::opener(&home, &passphrase, terminal)?;
            let again: &[OsString] = match &passphrase {
                Some(_) => &["up".into(), "--passphrase-file=-".into()],
                None => &["up".into()],
            };
            let secret = passphrase.as_ref().map(|passphrase| passphrase.as_str());
            start(&home, &run, Entrance::Up(name), again, secret, terminal)
        }
        Command::Join {
            ticket,
            run,
            passphrase,
        } => {
            let home = home()?;
            let passphrase = keys::opener(&home, &passphrase, terminal)?;
            if passphrase.is_some() && run.detach {
                return Err(Complaint::usage(
                    "the keys of this home are under a passphrase: it comes back without `--detach`",
                )
                .hint("later `potluck up --detach` takes the passphrase"));
            }
            let ticket = if ticket == "-" {
                read_input("the ticket")?
            } else {
                ticket
            };
            // Checked before anything is started: a typing mistake is answered at once.
            ticket.trim().parse::<potluck_crypto::Ticket>()?;
            if !run.detach {
                let secret = passphrase.as_ref().map(|passphrase| passphrase.as_str());
                return daemon::run(&home, &run, Entrance::Join(ticket), secret, terminal);
            }
            let again = [OsString::from("join"), OsString::from("-")];
            start(
                &home,
                &run,
                Entrance::Join(ticket.clone()),
                &again,
                Some(&ticket),
                terminal,
            )
        }
        Command::Invite { uses, expires, mine } => pool::invite(&home()?, uses, expires, mine, terminal),
        Command::Put(put) => put::run(&home()?, &put, terminal),
        Command::Get {
            mut place,
            dest,
            range,
            which,
            password,
        } => {
            let which = which.resolve(SystemClock.now());
            link::unlock(&mut place, &password, terminal)?;
            get::run(&home()?, &place, dest.as_deref(), (which, range), terminal)
        }
        Command::Diff(wish) => diff::run(&home()?, &wish, terminal),
        Command::Versions { place } => history::versions(&home()?, &place, terminal),
        Command::Log { place, since, lines } => {
            let since = since.map_or_else(Timestamp::default, |since| since.resolve(SystemClock.now()));
            history::log(&home()?, place.as_ref(), since, lines.unwrap_or(u64::MAX), terminal)
        }
        Command::Conflicts { place, keep, keep_all } => {
            let how = match (keep, keep_all) {
                (true, _) => Some(Settling::KeepThis),
                (_, true) => Some(Settling::KeepAll),
                _ => None,
            };
            match (place, how) {
                (Some(place), Some(how)) => history::settle(&home()?, &place, how, terminal),
                (place, _) => history::conflicts(&home()?, place.as_ref(), terminal),
            }
        }
        Command::Ls {
            mut place,
            long,
            recursive,
            password,
        } => {
            link::unlock(&mut place, &password, terminal)?;
            files::list(&home()?, &place, long, recursive, terminal)
        }
        Command::Cat {
            mut places,
            which,
            password,
        } => {
            for place in &mut places {
                link::unlock(place, &password, terminal)?;
            }
            get::cat(&home()?, &places, which.resolve(SystemClock.now()), terminal)
        }
        Command::Device(wish) => device::run(&home()?, wish, terminal),
        Command::Snapshot(wish) => snapshot::run(&home()?, wish, terminal),
        Command::Link(wish) => link::run(&home()?, wish, terminal),
        Command::Rm { places, recursive, now } => {
            let options = RemoveOptions {
                recursive,
                now,
                confirmed: false,
            };
            files::remove(&home()?, &places, options, terminal)
        }
        Command::Erase { place, .. } => match place {
            Some(place) => erase::run(&home()?, &place, terminal),
            None => erase::pending(&home()?, terminal),
        },
        Command::Trash { place, empty, accept } => {
            let wish = match (empty, accept) {
                (true, _) => trash::Wish::Empty,
                (false, true) => trash::Wish::Accept,
                (false, false) => trash::Wish::List,
            };
            trash::run(&home()?, place.as_ref(), wish, terminal)
        }
        Command::Restore {
            place,
            at,
            since,
            version,
            to,
        } => {
            let when = trash::When { at, since, version };
            trash::restore(&home()?, &place, when, to.as_ref(), terminal)
        }
        Command::Access { space } => access::log(&home()?, &space, terminal),
        Command::Verify { space } => access::verify(&home()?, &space, terminal),
        Command::Export { place, folder } => export::run(&home()?, &place, &folder, terminal),
        Command::Space(wish) => space::run(&home()?, wish, terminal),
        Command::Share {
            space,
            with,
            prefix,
            write,
            quota,
            may_share,
            expires,
        } => {
            let access = Access {
                may_write: write,
                since: None,
                until: expires.map(|span| SystemClock.now() + span.duration()),
                quota,
                may_share,
            };
            people::share(&home()?, &space, with, prefix, access, terminal)
        }
        Command::Unshare { space, with, prefix } => people::unshare(&home()?, &space, with, prefix, terminal),
        Command::Accept { offer, called } => people::accept(&home()?, offer, called, terminal),
        Command::Whoami => people::whoami(&home()?, terminal),
        Command::Id { name } => people::call_me(&home()?, &name, terminal),
        Command::People => people::list(&home()?, terminal),
        Command::Stat { mut place, password } => {
            link::unlock(&mut place, &password, terminal)?;
            files::stat(&home()?, &place, terminal)
        }
        Command::Explain { place, check } => explain::run(&home()?, &place, check, terminal),
        Command::Mv { from, to } => files::rename(&home()?, &from, &to, terminal),
        Command::Status { watch } => status::run(&home()?, watch, terminal),
        Command::Leave { cancel: true, .. } => pool::stay(&home()?, terminal),
        Command::Leave { force, .. } => pool::leave(&home()?, force, terminal),
        Command::Forget { node, force } => pool::forget(&home()?, &node, force, terminal),
        Command::Keys(Keys::Backup { file, passphrase }) => keys::backup(&home()?, &file, &passphrase, terminal),
        Command::Keys(Keys::Lock { passphrase }) => keys::lock(&home()?, &passphrase, terminal),
        Command::Keys(Keys::Unlock) => keys::unlock(&home()?, terminal),
        Command::Keys(Keys::Restore { file, passphrase, run }) => {
            let (kit, passphrase) = keys::open(&home()?, &file, &passphrase, terminal)?;
            let again = [
                OsString::from("keys"),
                OsString::from("restore"),
                file.into_os_string(),
                OsString::from("--passphrase-file=-"),
            ];
            start(
                &home()?,
                &run,
                Entrance::Restore(Box::new(kit)),
                &again,
                Some(&passphrase),
                terminal,
            )
        }
        Command::Fsck { repair, passphrase } => fsck::run(&home()?, repair, &passphrase, terminal),
        Command::Doctor => doctor::run(&home()?, terminal),
        Command::Sweep { abandoned_after } => pool::sweep(&home()?, abandoned_after, terminal),
        Command::Stop => pool::stop(&home()?, terminal),
        Command::Config => print_config(&home()?, terminal),
        Command::Demo { input, keep } => demo::run(input.as_deref(), keep, terminal),
        Command::Bench {
            size,
            nodes,
            files,
            objects,
        } => {
            let options = bench::Options {
                size,
                nodes,
                files,
                objects,
            };
            bench::run(options, terminal)
        }
        Command::Completions { shell } => documents::completions(shell, terminal),
        Command::Man { dir } => documents::man(&dir, terminal),
    }
}

/// Runs the daemon here, or starts it in the background with these arguments instead of those that were typed.
fn start(
    home: &Path,
    run: &Run,
    entrance: Entrance,
    again: &[OsString],
    secret: Option<&str>,
    terminal: Terminal,
) -> Result<(), Complaint> {
    if !run.detach {
        let passphrase = secret.filter(|_| matches!(entrance, Entrance::Up(_)));
        return daemon::run(home, run, entrance, passphrase, terminal);
    }
    let mut arguments: Vec<OsString> = vec!["--home".into(), home.into()];
    arguments.extend_from_slice(again);
    if let Entrance::Up(Some(name)) = entrance {
        arguments.extend(["--name".into(), name.into()]);
    }
    let mut option = |name: &str, value: String| arguments.push(format!("--{name}={value}").into());
    run.listen.iter().for_each(|address| option("listen", address.clone()));
    run.announce
        .iter()
        .for_each(|address| option("announce", address.clone()));
    if let Some(capacity) = run.capacity {
        option("capacity", capacity.0.to_string());
    }
    if let Some(zone) = &run.zone {
        option("zone", zone.to_string());
    }
    if let Some(region) = &run.region {
        option("region", region.to_string());
    }
    if let Some(machine) = &run.machine {
        option("machine", machine.to_string());
    }
    if let Some(grace) = run.grace {
        option("grace", grace.to_string());
    }
    if run.no_mdns {
        arguments.push("--no-mdns".into());
    }
    if run.no_relay {
        arguments.push("--no-relay".into());
    }
    daemon::detach(home, run, &Detached { arguments, secret }, terminal)
}

/// The home that was named, or the usual one; absolute, so that it means the same to a daemon.
fn home(named: Option<PathBuf>) -> Result<PathBuf, Complaint> {
    let home = named
        .or_else(|| config::default_home(|name| std::env::var(name).ok()))
        .ok_or_else(|| {
            Complaint::usage("there is no home: neither HOME nor XDG_DATA_HOME is set to an absolute path")
                .hint("name one with `--home DIR`")
        })?;
    std::path::absolute(&home).map_err(|error| Complaint::io("cannot use the home", &home, &error))
}

/// All of standard input, as text.
fn read_input(what: &str) -> Result<String, Complaint> {
    let mut text = String::new();
    let limit = potluck_types::limits::TICKET_TEXT_BYTES_MAX as u64 + 1;
    std::io::stdin()
        .take(limit)
        .read_to_string(&mut text)
        .map_err(|error| Complaint::failed(format!("{what} cannot be read from standard input: {error}")))?;
    Ok(text)
}

fn print_config(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let settings = Settings::effective(Settings::default(), home)?.with_defaults(config::free_bytes(home)?);
    terminal.result(&serde_json::json!({ "home": home, "config": settings }), || {
        format!("# {}\n{}", config::file(home).display(), settings.to_toml().trim_end())
    });
    Ok(())
}
