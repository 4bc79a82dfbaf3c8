//! Recovery kits, and keys under a passphrase.

use crate::{
    cli::Passphrase,
    complaint::Complaint,
    daemon,
    local::{client, message::Request},
    place::escape,
    terminal::{Secret, Terminal, count},
};
use potluck_crypto::Kit;
use potluck_node::Node;
use potluck_types::limits::KIT_BYTES_MAX;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use zeroize::Zeroizing;

/// What opens a recovery kit, and the keys of a home.
const PASSPHRASE: Secret = Secret {
    name: "passphrase",
    variable: "POTLUCK_PASSPHRASE",
    option: "--passphrase-file FILE",
};
/// What some links need.
pub(super) const LINK_PASSWORD: Secret = Secret {
    name: "password",
    variable: "POTLUCK_LINK_PASSWORD",
    option: "--password-file FILE",
};
/// Longer passphrases are refused: nobody has one, and a file that is none may be named by mistake.
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Shorter passphrases are remarked on: a person's own choice of fewer characters is within reach of guessing, scrypt or not.
const PASSPHRASE_CHARS: usize = 12;

/// `potluck keys backup`.
pub(super) fn backup(home: &Path, file: &Path, source: &Passphrase, terminal: Terminal) -> Result<(), Complaint> {
    if file.exists() {
        return Err(Complaint::usage(format!("{} is there already", file.display())).hint("name a new file"));
    }
    let passphrase = new_passphrase(source, terminal)?;
    let kit: String = client::call(
        home,
        &Request::Backup {
            passphrase: passphrase.to_string(),
        },
    )?;
    let write = || -> io::Result<()> {
        let mut out = OpenOptions::new().create_new(true).write(true).mode(0o600).open(file)?;
        out.write_all(kit.as_bytes())?;
        out.sync_all()
    };
    write().map_err(|error| Complaint::io("cannot write", file, &error))?;
    terminal.result(&serde_json::json!({ "kit": file }), || {
        format!(
            "{} and the passphrase bring you back on a fresh machine, with every file:\n  potluck keys restore {}\n\
             Keep it away from your machines, and the passphrase away from it.",
            file.display(),
            file.display()
        )
    });
    Ok(())
}

/// Opens a recovery kit; gives the passphrase too, for whom it is passed on to.
pub(super) fn open(
    home: &Path,
    file: &Path,
    source: &Passphrase,
    terminal: Terminal,
) -> Result<(Kit, Zeroizing<String>), Complaint> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|kit| kit.take(KIT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| Complaint::io("cannot read", file, &error))?;
    let wrong = |error| {
        let complaint = Complaint::from(error);
        let message = format!("{}: {}", file.display(), complaint.message);
        Complaint { message, ..complaint }
    };
    // Before anybody types a passphrase for nothing.
    Kit::check(&bytes).map_err(wrong)?;
    daemon::refuse_running(home)?;
    let passphrase = passphrase(source, false, terminal)?;
    let kit = Kit::decrypt(&bytes, &passphrase).map_err(wrong)?;
    terminal.note(&format!(
        "Asking {} of the pool `{}` to take this machine in.",
        count(kit.members.len() as u64, "member"),
        escape(&kit.pool_name)
    ));
    Ok((kit, passphrase))
}

/// `potluck keys lock`.
pub(super) fn lock(home: &Path, source: &Passphrase, terminal: Terminal) -> Result<(), Complaint> {
    let passphrase = new_passphrase(source, terminal)?;
    client::call::<()>(
        home,
        &Request::LockKeys {
            passphrase: passphrase.to_string(),
        },
    )?;
    terminal.result(&serde_json::json!({ "locked": true }), || {
        "The keys in this home are under the passphrase: the next `potluck up` asks for it. With no recovery kit and no other machine of yours, nobody can do without it.\n\
         Names, and the keys to files that this machine knows of, lie in HOME/meta.redb as before: against a thief of the disk, encrypt that, too."
            .to_owned()
    });
    Ok(())
}

/// `potluck keys unlock`.
pub(super) fn unlock(home: &Path, terminal: Terminal) -> Result<(), Complaint> {
    let was_locked: bool = client::call(home, &Request::UnlockKeys)?;
    terminal.result(&serde_json::json!({ "locked": false }), || {
        match was_locked {
            true => "The keys in this home are under no passphrase any more.",
            false => "The keys in this home were under no passphrase.",
        }
        .to_owned()
    });
    Ok(())
}

/// What opens the keys of a home, if they are under a passphrase.
pub(super) fn opener(
    home: &Path,
    source: &Passphrase,
    terminal: Terminal,
) -> Result<Option<Zeroizing<String>>, Complaint> {
    if !Node::is_locked(home) {
        if source.passphrase_file.is_some() {
            terminal.note("The keys in this home are under no passphrase: `potluck keys lock` puts them under one, when the node runs.");
        }
        return Ok(None);
    }
    // Before anybody types it for nothing.
    daemon::refuse_running(home)?;
    passphrase(source, false, terminal).map(Some)
}

fn new_passphrase(source: &Passphrase, terminal: Terminal) -> Result<Zeroizing<String>, Complaint> {
    let passphrase = passphrase(source, true, terminal)?;
    if passphrase.is_empty() {
        return Err(Complaint::usage("the passphrase is empty").hint("five or six random words make a good one"));
    }
    if passphrase.chars().count() < PASSPHRASE_CHARS {
        terminal.note(&format!(
            "The passphrase has under {PASSPHRASE_CHARS} characters: whoever finds the file may guess it. Five or six random words make a good one."
        ));
    }
    Ok(passphrase)
}

fn passphrase(source: &Passphrase, is_new: bool, terminal: Terminal) -> Result<Zeroizing<String>, Complaint> {
    secret(PASSPHRASE, source.passphrase_file.as_deref(), is_new, terminal)
}

/// A secret that a person has: from the first line of a file or of standard input (`-`), from the environment, or as they type it. Never from the command line, which
/// others can see.
pub(super) fn secret(
    what: Secret,
    file: Option<&Path>,
    is_new: bool,
    terminal: Terminal,
) -> Result<Zeroizing<String>, Complaint> {
    let first_line = |text: &str| Zeroizing::new(text.lines().next().unwrap_or_default().to_owned());
    let secret = match file {
        Some(file) if file == Path::new("-") => {
            let text = super::read_input(&format!("the {}", what.name))?;
            Ok(first_line(&Zeroizing::new(text)))
        }
        Some(file) => {
            let text = fs::read_to_string(file).map_err(|error| Complaint::io("cannot read", file, &error))?;
            Ok(first_line(&Zeroizing::new(text)))
        }
        None => match std::env::var(what.variable) {
            Ok(secret) => Ok(Zeroizing::new(secret)),
            Err(_) => terminal.secret(what, is_new),
        },
    };
    let secret = secret?;
    match secret.len() {
        0..=PASSPHRASE_BYTES_MAX => Ok(secret),
        len => Err(Complaint::usage(format!(
            "a {} has {PASSPHRASE_BYTES_MAX} bytes at most, and this has {len}",
            what.name
        ))
        .hint("is it the right file? Its first line counts")),
    }
}
