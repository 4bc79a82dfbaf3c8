//! A folder that becomes a home: which may, and what is taken away again when nothing comes of it.

use crate::complaint::{Complaint, Kind};
use potluck_node::Node;
use rustix::fs::{FlockOperation, flock};
use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// All that a node makes in its home; while it is written a file may end in `.new`.
const OURS: [&str; 12] = [
    "api.path",
    "api.sock",
    "config.toml",
    "keys.locked",
    "log",
    "meta.redb",
    "meta.reserve",
    "node.key",
    "pool",
    "store",
    "user.key",
    LOCK,
];
/// Those of them that are this program's own, and not the node's.
pub(crate) const BESIDE: [&str; 4] = ["api.path", "api.sock", "config.toml", "log"];
const LOCK: &str = "lock";
/// A file system makes it at its root, which may well be a home.
const OF_THE_DISK: &str = "lost+found";

/// A home as it was before a node was started on it.
#[derive(Debug)]
pub(crate) struct Fresh {
    home: PathBuf,
    names: BTreeSet<OsString>,
    /// Folders that were not there: the home and those above it, the deepest first.
    missing: Vec<PathBuf>,
}

impl Fresh {
    /// Looks at a folder before anything is made in it. One that holds what is not a node's is refused.
    pub(crate) fn look(home: &Path) -> Result<Self, Complaint> {
        let choose = "name a new or an empty folder: `--home DIR`";
        if home.exists() && !home.is_dir() {
            return Err(Complaint::usage(format!("{} is a file, and a home is a folder", home.display())).hint(choose));
        }
        let names = match fs::read_dir(home).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect()) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(Complaint::io("cannot look into", home, &error)),
        };
        let strange = names.iter().find(|name| !is_ours(name) && *name != OF_THE_DISK);
        if let Some(strange) = strange.filter(|_| !Node::has_pool(home)) {
            return Err(Complaint::usage(format!(
                "{} holds other files, such as `{}`: a home is a folder of its own",
                home.display(),
                strange.display()
            ))
            .hint(choose));
        }
        Ok(Self {
            home: home.to_owned(),
            names,
            missing: home
                .ancestors()
                .take_while(|folder| !folder.exists())
                .map(Path::to_owned)
                .collect(),
        })
    }

    /// Takes away what a start made that failed for this reason. Nothing goes that was there before, that belongs to a pool, or that
    /// another process uses; nor when nobody answered: they may have let the node in all the same, and its key is what they know it by.
    pub(crate) fn undo(&self, why: &Complaint) {
        if why.kind == Kind::Unreachable || Node::has_pool(&self.home) {
            return;
        }
        let lock = File::open(self.home.join(LOCK));
        if let Ok(lock) = &lock
            && flock(lock, FlockOperation::NonBlockingLockExclusive).is_err()
        {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.home) else { return };
        let made = entries
            .flatten()
            .filter(|entry| is_ours(&entry.file_name()) && !self.names.contains(&entry.file_name()));
        // What cannot be removed stays, and does no harm.
        for entry in made {
            let _ = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
        }
        for folder in &self.missing {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    OURS.contains(&name.strip_suffix(".new").unwrap_or(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_leaves_nothing_and_takes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let refused = Complaint::new(Kind::Refused, "no");
        let home = folder.path().join("deep/home");
        let fresh = Fresh::look(&home).unwrap();
        fs::create_dir_all(home.join("store")).unwrap();
        fs::write(home.join("node.key"), "").unwrap();
        fresh.undo(&Complaint::new(Kind::Unreachable, "silence"));
        assert!(home.join("node.key").exists(), "the pool may know it");
        fresh.undo(&refused);
        assert!(!folder.path().join("deep").exists());

        fs::create_dir_all(&home).unwrap();
        fs::write(home.join("config.toml"), "").unwrap();
        let fresh = Fresh::look(&home).unwrap();
        fs::write(home.join(LOCK), "").unwrap();
        fs::write(home.join("notes"), "").unwrap();
        fresh.undo(&refused);
        let left: BTreeSet<_> = fs::read_dir(&home)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["config.toml".into(), "notes".into()].into());
    }

    #[test]
    fn a_home_that_is_used_or_belongs_to_a_pool_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (home, refused) = (folder.path(), Complaint::new(Kind::Refused, "no"));
        let fresh = Fresh::look(home).unwrap();
        let lock = File::create(home.join(LOCK)).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        fresh.undo(&refused);
        assert!(home.join(LOCK).exists());
        drop(lock);
        fs::write(home.join("pool"), "").unwrap();
        fresh.undo(&refused);
        assert!(home.join(LOCK).exists());
    }

    #[test]
    fn a_folder_of_other_files_is_no_home() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Fresh::look(folder.path()).is_ok());
        fs::create_dir(folder.path().join("lost+found")).unwrap();
        assert!(Fresh::look(folder.path()).is_ok());
        let letter = folder.path().join("letter.txt");
        fs::write(&letter, "").unwrap();
        let complaint = Fresh::look(folder.path()).unwrap_err();
        assert!(complaint.message.contains("letter.txt"), "{complaint}");
        assert_eq!(Fresh::look(&letter).unwrap_err().kind, Kind::Usage);
        // Whose it is now is settled.
        fs::write(folder.path().join("pool"), "").unwrap();
        assert!(Fresh::look(folder.path()).is_ok());
    }
}
