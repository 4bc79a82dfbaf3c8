//! The files of the home: that they are there, are its owner's alone, and are the node's.

use super::{Check, Fault, Finding, FsckProgress, Inhabitant};
use crate::{
    error::HomeError,
    home::{BEING_WRITTEN, Home, LOCK, LOST_AND_FOUND, META, META_RESERVE, NODE_KEY, POOL, STORE, USER_KEY},
    locked::LOCKED_KEYS,
    spare::Reserve,
};
use potluck_types::PoolId;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The rights that nobody but the owner should have.
const OF_OTHERS: u32 = 0o077;

impl<P: FnMut(FsckProgress)> Check<'_, P> {
    /// Checks the files, and gives the keys that are in them.
    pub(super) fn files(&mut self, home: &Home) -> Result<Inhabitant, HomeError> {
        let entries = fs::read_dir(self.path).and_then(|entries| {
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.collect::<io::Result<Vec<_>>>()
        });
        let mut names = match entries {
            Ok(names) => names,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(HomeError::Empty {
                    home: self.path.to_owned(),
                });
            }
            Err(source) => {
                return Err(HomeError::Io {
                    action: "cannot look into",
                    file: self.path.to_owned(),
                    source,
                });
            }
        };
        if ![POOL, META, NODE_KEY, LOCKED_KEYS]
            .iter()
            .any(|name| names.iter().any(|found| found == name))
        {
            return Err(HomeError::Empty {
                home: self.path.to_owned(),
            });
        }
        names.sort_unstable();
        self.permissions("", 0o700);
        for name in &names {
            self.name(home, name);
        }
        for name in [META, META_RESERVE] {
            self.permissions(name, 0o600);
        }
        if !Reserve::is_whole(&*home.disk(), META_RESERVE) {
            self.found(META_RESERVE, Fault::NoReserve, || {
                let is_made = Reserve::at(home.disk(), META_RESERVE).restore();
                is_made.then_some(()).ok_or_else(|| io::ErrorKind::StorageFull.into())
            });
        }
        if Home::is_locked(self.path) {
            return self.locked_keys(home);
        }
        Ok(Inhabitant {
            node: self.key_file(home, NODE_KEY).map(|keys| keys.signing().clone()),
            user: self.key_file(home, USER_KEY),
        })
    }

    /// The file that names the pool, once the records say which it is.
    pub(super) fn pool(&mut self, home: &Home, pool: PoolId) {
        let text = fs::read_to_string(self.path.join(POOL)).unwrap_or_default();
        if text.trim().parse() != Ok(pool) {
            self.found(POOL, Fault::OtherPool, || home.set_pool(pool).map_err(io::Error::other));
        }
    }

    /// Whether a name in the home is one that belongs there.
    fn name(&mut self, home: &Home, name: &str) {
        const OURS: [&str; 9] = [
            LOCK,
            LOCKED_KEYS,
            LOST_AND_FOUND,
            META,
            META_RESERVE,
            NODE_KEY,
            POOL,
            STORE,
            USER_KEY,
        ];
        if OURS.contains(&name) || self.options.others.contains(name) {
            return;
        }
        let path = self.path.to_owned();
        match name.strip_suffix(BEING_WRITTEN) {
            Some(whole) if OURS.contains(&whole) => {
                // Whole keys that are under a passphrase are there, or others in their place: see below.
                let is_needless = home.read_any_keys(whole).is_ok() || [POOL, LOCKED_KEYS].contains(&whole);
                self.found(name, Fault::LeftOver, || match is_needless {
                    true => fs::remove_file(path.join(name)),
                    false => set_aside(&path, name).map(drop),
                });
            }
            _ => self.found(name, Fault::Strange, || set_aside(&path, name).map(drop)),
        }
    }

    fn permissions(&mut self, name: &str, wanted: u32) {
        let path = self.path.join(name);
        if fs::metadata(&path).is_ok_and(|found| found.permissions().mode() & OF_OTHERS != 0) {
            let place = if name.is_empty() { "HOME" } else { name };
            self.found(place, Fault::Exposed, || {
                fs::set_permissions(&path, fs::Permissions::from_mode(wanted))
            });
        }
    }

    /// Those who live here, where their keys are under a passphrase.
    fn locked_keys(&mut self, home: &Home) -> Result<Inhabitant, HomeError> {
        self.permissions(LOCKED_KEYS, 0o600);
        match home.open_keys(self.options.passphrase.as_ref()) {
            Ok(()) => {}
            Err(error @ (HomeError::NeedsPassphrase { .. } | HomeError::WrongPassphrase { .. })) => return Err(error),
            Err(error) => {
                let fault = match error {
                    HomeError::Io { source, .. } => Fault::Unreadable {
                        reason: source.to_string(),
                    },
                    _ => Fault::NotAKey,
                };
                self.report.findings.push(Finding::new(LOCKED_KEYS, fault));
                return Ok(Inhabitant::default());
            }
        }
        for name in [NODE_KEY, USER_KEY] {
            let path = self.path.join(name);
            if path.exists() {
                self.found(name, Fault::Bare, || fs::remove_file(&path));
            }
        }
        let keys = |name| home.unlocked_keys(name);
        Ok(Inhabitant {
            node: keys(NODE_KEY).map(|keys| keys.signing().clone()),
            user: keys(USER_KEY),
        })
    }

    fn key_file(&mut self, home: &Home, name: &str) -> Option<potluck_crypto::UserKeys> {
        self.permissions(name, 0o600);
        let fault = match home.read_any_keys(name) {
            Ok(keys) => return Some(keys),
            Err(HomeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Fault::Missing,
            Err(HomeError::Io { source, .. }) => Fault::Unreadable {
                reason: source.to_string(),
            },
            Err(_) => Fault::NotAKey,
        };
        self.report.findings.push(Finding::new(name, fault));
        None
    }

    /// Notes what is wrong, and puts it right if that is wanted and can be.
    pub(super) fn found(&mut self, place: &str, fault: Fault, repair: impl FnOnce() -> io::Result<()>) {
        let mut finding = Finding::new(place, fault);
        if self.options.repair && finding.fault.repair().is_some() {
            match repair() {
                Ok(()) => finding.is_repaired = true,
                Err(error) => tracing::warn!(place, %error, "it could not be repaired"),
            }
        }
        self.report.findings.push(finding);
    }
}

/// Moves a file or folder of the home to where a person finds it, and gives its new place.
pub(super) fn set_aside(home: &Path, name: &str) -> io::Result<PathBuf> {
    let place = free_place(home, name.rsplit('/').next().unwrap_or(name))?;
    fs::rename(home.join(name), &place)?;
    Ok(place)
}

/// Writes something down there.
pub(super) fn keep_aside(home: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let place = free_place(home, name)?;
    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(place)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A path in `lost+found` that nothing has yet.
fn free_place(home: &Path, name: &str) -> io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = home.join(LOST_AND_FOUND);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let numbered = (1u32..).map(|number| folder.join(format!("{name}.{number}")));
    let mut places = std::iter::once(folder.join(name)).chain(numbered);
    let free = places.find(|place| fs::symlink_metadata(place).is_err());
    free.ok_or_else(|| io::ErrorKind::StorageFull.into())
}
