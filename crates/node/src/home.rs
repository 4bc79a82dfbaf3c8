//! The home: the folder of one node. Keys are files of their own, readable by their owner only; one process runs on it at a time.
//!
//! ```text
//! lock       held while a node runs
//! node.key   the node's secret key      user.key   the person's, each on a line
//! keys.locked  both, in a home whose keys are under a passphrase
//! meta.redb  records, names, tickets    meta.reserve  room for removals
//! store/     shards
//! pool       the pool's id, written last: a home without it belongs to none yet
//! ```

use crate::{
    error::HomeError,
    locked::{LOCKED_KEYS, Unlocked},
    world::Storage,
};
use potluck_crypto::{SigningKey, UserKeys};
use potluck_store::{Disk, DiskFile, OpenMode, OsDisk};
use potluck_types::{Entropy, PoolId};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

/// How long a process that was killed may take to let go of its home: the kernel writes back and unmaps what it had first.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is tried meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(20);

pub(crate) const LOCK: &str = "lock";
pub(crate) const NODE_KEY: &str = "node.key";
pub(crate) const USER_KEY: &str = "user.key";
pub(crate) const POOL: &str = "pool";
/// What the name of a file ends in while it is written.
pub(crate) const BEING_WRITTEN: &str = ".new";
pub(crate) const STORE: &str = "store";
/// Where a repair moves what it takes out.
pub(crate) const LOST_AND_FOUND: &str = "lost+found";
const KEY_PREFIX: &str = "potluck-secret-key-1 ";
/// The metadata database, and the file that keeps room for it.
pub(crate) const META: &str = "meta.redb";
pub(crate) const META_RESERVE: &str = "meta.reserve";

/// A home that no other process uses.
pub(crate) struct Home {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Its keys, if they are under a passphrase and were opened.
    pub(crate) unlocked: Mutex<Option<Unlocked>>,
    /// Held, not used: the lock ends with it. None only of a home that is looked at, and in which no node ever ran.
    _lock: Option<Arc<dyn DiskFile>>,
}

fn failed(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> HomeError {
    let file = file.to_owned();
    move |source| HomeError::Io { action, file, source }
}

impl Home {
    /// Takes a home, and makes its folder if there is none.
    pub(crate) fn take(path: &Path, storage: &dyn Storage) -> Result<Self, HomeError> {
        let disk = storage.folder(path).map_err(failed("cannot make", path))?;
        let file = path.join(LOCK);
        let lock = disk.open_or_make(LOCK).map_err(failed("cannot open", &file))?;
        Self::with_lock(path, disk, lock)
    }

    /// As [`Home::look`], but waits a while for a process that is about to let go of it.
    pub(crate) fn look_within(path: &Path, patience: Duration) -> Result<Self, HomeError> {
        let deadline = Instant::now() + patience;
        loop {
            match Self::look(path) {
                Err(HomeError::Locked { .. }) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
                looked => return looked,
            }
        }
    }

    /// Takes a home as it is, and makes nothing in it.
    pub(crate) fn look(path: &Path) -> Result<Self, HomeError> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::at(path));
        match OsDisk::read_only(path).open(LOCK, OpenMode::Existing) {
            Ok(lock) => Self::with_lock(path, disk, lock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self {
                path: path.to_owned(),
                disk,
                unlocked: Mutex::default(),
                _lock: None,
            }),
            Err(error) => Err(failed("cannot open", &path.join(LOCK))(error)),
        }
    }

    fn with_lock(path: &Path, disk: Arc<dyn Disk>, lock: Arc<dyn DiskFile>) -> Result<Self, HomeError> {
        match lock.try_lock() {
            Ok(true) => Ok(Self {
                path: path.to_owned(),
                disk,
                unlocked: Mutex::default(),
                _lock: Some(lock),
            }),
            Ok(false) => Err(HomeError::Locked { home: path.to_owned() }),
            Err(error) => Err(failed("cannot lock", &path.join(LOCK))(error)),
        }
    }

    /// As [`Home::take`], but waits a while for a process that is about to let go of it.
    pub(crate) async fn take_within(path: &Path, storage: &dyn Storage, patience: Duration) -> Result<Self, HomeError> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            match Self::take(path, storage) {
                Err(HomeError::Locked { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                taken => return taken,
            }
        }
    }

    /// Whether a pool was made or joined there.
    pub(crate) fn is_of_a_pool(path: &Path) -> bool {
        path.join(POOL).exists()
    }

    /// Whether a pool was made or joined here.
    pub(crate) fn has_pool(&self) -> bool {
        self.disk.contains(POOL).unwrap_or(true)
    }

    /// Which pool was made or joined here, as it is written down.
    pub(crate) fn pool(&self) -> Result<Option<String>, HomeError> {
        if !self.has_pool() {
            return Ok(None);
        }
        let text = self.read(POOL)?;
        Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()))
    }

    /// Makes this the home of a node of that pool; all else was written before.
    pub(crate) fn set_pool(&self, pool: PoolId) -> Result<(), HomeError> {
        self.write_file(POOL, format!("{pool}\n").as_bytes())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    pub(crate) fn meta_path(&self) -> PathBuf {
        self.path.join(META)
    }

    /// A home that belongs to a pool has all its files: one that is missing was lost, and is not made anew.
    pub(crate) fn refuse_missing(&self, name: &str) -> Result<(), HomeError> {
        if self.has_pool() && !self.contains(name)? {
            return Err(HomeError::Damaged {
                file: self.path.join(name),
                reason: "it is missing".to_owned(),
            });
        }
        Ok(())
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// The node's key; made when there is none.
    pub(crate) fn node_key(&self, entropy: &dyn Entropy) -> Result<SigningKey, HomeError> {
        let keys = self.keys(NODE_KEY, entropy)?;
        Ok(keys.signing().clone())
    }

    /// The person's keys; one is made when there is none.
    pub(crate) fn user_keys(&self, entropy: &dyn Entropy) -> Result<UserKeys, HomeError> {
        self.keys(USER_KEY, entropy)
    }

    fn keys(&self, name: &str, entropy: &dyn Entropy) -> Result<UserKeys, HomeError> {
        if let Some(keys) = self.unlocked_keys(name) {
            return Ok(keys);
        }
        if self.contains(LOCKED_KEYS)? {
            let home = self.path.clone();
            return Err(HomeError::NeedsPassphrase { home });
        }
        if !self.contains(name)? {
            // With a new key this would be another node, or another person with nothing stored.
            self.refuse_missing(name)?;
            self.write_keys(name, &UserKeys::new(SigningKey::generate(entropy)))?;
        }
        self.read_keys(name)
    }

    pub(crate) fn write_keys(&self, name: &str, keys: &UserKeys) -> Result<(), HomeError> {
        self.write_file(name, keys_text(keys).as_bytes())
    }

    pub(crate) fn contains(&self, name: &str) -> Result<bool, HomeError> {
        self.disk
            .contains(name)
            .map_err(failed("cannot open", &self.path.join(name)))
    }

    pub(crate) fn read(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, HomeError> {
        let read = self
            .disk
            .read(name)
            .map_err(failed("cannot read", &self.path.join(name)));
        read.map(Zeroizing::new)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), HomeError> {
        let removed = self.disk.remove(name).and_then(|()| self.disk.sync_dir());
        removed.map_err(failed("cannot remove", &self.path.join(name)))
    }

    pub(crate) fn write_file(&self, name: &str, content: &[u8]) -> Result<(), HomeError> {
        let written = self.disk.replace(name, content);
        written.map_err(failed("cannot write", &self.path.join(name)))
    }

    pub(crate) fn read_keys(&self, name: &str) -> Result<UserKeys, HomeError> {
        let file = self.path.join(name);
        let is_private = self.disk.is_private(name).map_err(failed("cannot read", &file))?;
        if !is_private {
            return Err(HomeError::Exposed { file });
        }
        self.read_any_keys(name)
    }

    /// The keys in a file, whoever else can read it.
    pub(crate) fn read_any_keys(&self, name: &str) -> Result<UserKeys, HomeError> {
        let bytes = self.read(name)?;
        let keys = std::str::from_utf8(&bytes).ok().and_then(parse_keys);
        keys.ok_or_else(|| HomeError::Damaged {
            file: self.path.join(name),
            reason: "it is no key that this program wrote".to_owned(),
        })
    }
}

/// What the file of a node's key, or of a person's, holds.
pub(crate) fn keys_text(keys: &UserKeys) -> Zeroizing<String> {
    let lines: Vec<_> = keys.all().map(|key| hex(key.seed())).collect();
    let mut text = Zeroizing::new(String::with_capacity(lines.len() * (KEY_PREFIX.len() + 65)));
    for line in &lines {
        text.push_str(KEY_PREFIX);
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// The keys that a file holds, if they are ones.
pub(crate) fn parse_keys(text: &str) -> Option<UserKeys> {
    let key = |line: &str| Some(SigningKey::from_seed(&*line.strip_prefix(KEY_PREFIX).and_then(unhex)?));
    let keys: Option<Vec<SigningKey>> = text.trim_end().lines().map(key).collect();
    UserKeys::of(keys?)
}

fn hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).expect("a digit below 16"));
        }
    }
    text
}

fn unhex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits: Option<Zeroizing<Vec<u8>>> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect::<Option<Vec<_>>>()
        .map(Zeroizing::new);
    let digits = digits.filter(|digits| digits.len() == 64)?;
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SystemStorage;
    use potluck_types::SystemEntropy;
    use std::{fs, os::unix::fs::PermissionsExt};

    #[test]
    fn keys_are_made_once_and_guarded() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::take(folder.path(), &SystemStorage).unwrap();
        let key = home.node_key(&SystemEntropy).unwrap();
        assert_eq!(home.node_key(&SystemEntropy).unwrap().node_id(), key.node_id());
        assert!(matches!(
            Home::take(folder.path(), &SystemStorage),
            Err(HomeError::Locked { .. })
        ));
        let file = folder.path().join(NODE_KEY);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(home.node_key(&SystemEntropy), Err(HomeError::Exposed { .. })));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, "not a key").unwrap();
        assert!(matches!(home.node_key(&SystemEntropy), Err(HomeError::Damaged { .. })));
    }

    #[test]
    fn all_keys_of_a_person_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::take(folder.path(), &SystemStorage).unwrap();
        let mut keys = home.user_keys(&SystemEntropy).unwrap();
        keys.push(SigningKey::from_seed(&[7; 32]));
        home.set_user_keys(&keys, &SystemEntropy).unwrap();
        let kept = home.user_keys(&SystemEntropy).unwrap();
        assert_eq!((kept.id(), kept.signing().seed()), (keys.id(), &[7; 32]));
        fs::write(folder.path().join(USER_KEY), format!("{}potluck", *keys_text(&keys))).unwrap();
        assert!(matches!(home.user_keys(&SystemEntropy), Err(HomeError::Damaged { .. })));
    }

    #[test]
    fn a_key_that_was_lost_is_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::take(folder.path(), &SystemStorage).unwrap();
        home.user_keys(&SystemEntropy).unwrap();
        home.set_pool(PoolId::from_bytes([1; 32])).unwrap();
        fs::remove_file(folder.path().join(USER_KEY)).unwrap();
        assert!(matches!(home.user_keys(&SystemEntropy), Err(HomeError::Damaged { .. })));
        assert!(!folder.path().join(USER_KEY).exists());
    }

    /// `up` right after `kill -9` came before the kernel had let go of what the old process held, and said that another runs.
    #[tokio::test]
    async fn a_home_that_is_being_let_go_of_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let dying = Home::take(folder.path(), &SystemStorage).unwrap();
        let (waiting, _) = tokio::join!(Home::take_within(folder.path(), &SystemStorage, LOCK_PATIENCE), async {
            tokio::time::sleep(2 * LOCK_POLL).await;
            drop(dying);
        });
        let _alive = waiting.unwrap();
        let refused = Home::take_within(folder.path(), &SystemStorage, 2 * LOCK_POLL).await;
        assert!(matches!(refused, Err(HomeError::Locked { .. })));
    }
}
