//! Recovery kits.

use crate::{
    cli::Passphrase,
    complaint::Complaint,
    daemon,
    local::{client, message::Request},
    place::escape,
    terminal::{Secret, Terminal, count},
};
use potluck_crypto::Kit;
use potluck_types::limits::KIT_BYTES_MAX;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};
use zeroize::Zeroizing;

/// What opens a recovery kit.
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
/// Shorter passphrases are remarked on: a person's own choice of fewer characters is within reach of guessing, scrypt or not.
const PASSPHRASE_CHARS: usize = 12;

/// `potluck keys backup`.
pub(super) fn backup(home: &Path, file: &Path, source: &Passphrase, terminal: Terminal) -> Result<(), Complaint> {
    if file.exists() {
        return Err(Complaint::usage(format!("{} is there already", file.display())).hint("name a new file"));
    }
    let passphrase = passphrase(source, true, terminal)?;
    if passphrase.is_empty() {
        return Err(Complaint::usage("the passphrase is empty").hint("five or six random words make a good one"));
    }
    if passphrase.chars().count() < PASSPHRASE_CHARS {
        terminal.note(&format!(
            "The passphrase has under {PASSPHRASE_CHARS} characters: whoever finds the file may guess it. Five or six random words make a good one."
        ));
    }
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
    match file {
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
    }
}
