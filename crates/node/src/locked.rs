//! The keys of a home under a passphrase: one file in place of two. They are sealed under a key that only the passphrase opens; so others can take their place, as when a machine is lost,
//! while nobody is asked for it.

use crate::{
    error::HomeError,
    home::{BEING_WRITTEN, Home, NODE_KEY, USER_KEY, keys_text, parse_keys},
};
use potluck_crypto::{BoxKey, Passphrase, PassphraseError, Purpose, SigningKey, UserKeys};
use potluck_types::{Entropy, from_canonical, to_canonical};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::{path::Path, sync::MutexGuard};
use zeroize::Zeroizing;

/// The file. A home that has it has no others with keys.
pub(crate) const LOCKED_KEYS: &str = "keys.locked";
const VERSION: u8 = 1;
const PURPOSE: Purpose<'_> = Purpose {
    context: "potluck/home-keys/1",
    associated: b"",
};

/// What the file holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct LockedKeys {
    version: u8,
    /// The key that the keys are sealed under, under the passphrase.
    opener: ByteBuf,
    /// The node's key and the person's, each on a line.
    sealed: ByteBuf,
}

/// The keys of a home that was opened, and what seals them.
pub(crate) struct Unlocked {
    opener: ByteBuf,
    key: BoxKey,
    pub(crate) node: SigningKey,
    pub(crate) user: UserKeys,
}

impl Unlocked {
    /// Opens what the file holds; none if it holds something else.
    fn open(locked: &LockedKeys, passphrase: &Passphrase) -> Result<Option<Self>, PassphraseError> {
        let key = passphrase.open(&locked.opener)?;
        let opened = || {
            let key = BoxKey::from_bytes(key[..].try_into().ok()?);
            let text = Zeroizing::new(key.open(PURPOSE, &locked.sealed).ok()?);
            let keys = parse_keys(std::str::from_utf8(&text).ok()?)?;
            let mut keys = keys.all().cloned();
            Some(Self {
                opener: locked.opener.clone(),
                key,
                node: keys.next()?,
                user: UserKeys::of(keys)?,
            })
        };
        Ok(opened())
    }

    fn to_bytes(&self, entropy: &dyn Entropy) -> Vec<u8> {
        let [node, user] = [&UserKeys::new(self.node.clone()), &self.user].map(keys_text);
        let text = Zeroizing::new([node.as_bytes(), user.as_bytes()].concat());
        to_canonical(&LockedKeys {
            version: VERSION,
            opener: self.opener.clone(),
            sealed: ByteBuf::from(self.key.seal(PURPOSE, &text, entropy)),
        })
    }
}

/// Whether these bytes are such a file, of a version that this program reads.
pub(crate) fn parse(bytes: &[u8]) -> Option<LockedKeys> {
    let locked: LockedKeys = from_canonical(bytes).ok()?;
    (locked.version == VERSION).then_some(locked)
}

/// Such a file, that nothing opens.
#[cfg(fuzzing)]
pub(crate) fn sample() -> Vec<u8> {
    to_canonical(&LockedKeys {
        version: VERSION,
        opener: ByteBuf::from(b"-----BEGIN AGE ENCRYPTED FILE-----".to_vec()),
        sealed: ByteBuf::from(vec![7; 48]),
    })
}

impl Home {
    /// Whether the keys of this home are under a passphrase, if one can tell.
    pub(crate) fn is_locked(home: &Path) -> bool {
        home.join(LOCKED_KEYS).exists()
    }

    /// Opens the keys of a home where they are under a passphrase. Takes about a second then.
    pub(crate) fn unlock(&self, passphrase: Option<&Passphrase>) -> Result<(), HomeError> {
        self.open_keys(passphrase)?;
        // What they took the place of, if that was cut off.
        match self.unlocked().is_some() {
            true => self.remove_bare_keys(),
            false => Ok(()),
        }
    }

    /// The same, and changes nothing on disk.
    pub(crate) fn open_keys(&self, passphrase: Option<&Passphrase>) -> Result<(), HomeError> {
        if !self.contains(LOCKED_KEYS)? {
            return Ok(());
        }
        let file = self.path().join(LOCKED_KEYS);
        let locked = parse(&self.read(LOCKED_KEYS)?);
        let damaged = || HomeError::Damaged {
            file: file.clone(),
            reason: "it holds no keys that this program wrote".to_owned(),
        };
        let locked = locked.ok_or_else(damaged)?;
        let home = self.path().to_owned();
        let passphrase = passphrase.ok_or(HomeError::NeedsPassphrase { home })?;
        let opened = Unlocked::open(&locked, passphrase).map_err(|source| match source {
            PassphraseError::Wrong => HomeError::WrongPassphrase {
                home: self.path().to_owned(),
            },
            _ => damaged(),
        })?;
        *self.unlocked() = Some(opened.ok_or_else(damaged)?);
        Ok(())
    }

    /// Puts the keys of this home under a passphrase, in place of another one, if there is one. All at once, or not at all.
    pub(crate) fn lock(&self, passphrase: &Passphrase, entropy: &dyn Entropy) -> Result<(), HomeError> {
        let key = BoxKey::generate(entropy);
        // That takes a while, and others want the keys meanwhile.
        let opener = ByteBuf::from(passphrase.seal(key.as_bytes()));
        let mut unlocked = self.unlocked();
        let (node, user) = match &*unlocked {
            Some(Unlocked { node, user, .. }) => (node.clone(), user.clone()),
            None => (self.read_keys(NODE_KEY)?.signing().clone(), self.read_keys(USER_KEY)?),
        };
        let locked = Unlocked {
            opener,
            key,
            node,
            user,
        };
        self.write_file(LOCKED_KEYS, &locked.to_bytes(entropy))?;
        *unlocked = Some(locked);
        self.remove_bare_keys()
    }

    /// Takes the keys of this home out from under their passphrase. Whether they were under one.
    pub(crate) fn unprotect(&self) -> Result<bool, HomeError> {
        let mut unlocked = self.unlocked();
        let Some(locked) = &*unlocked else { return Ok(false) };
        let written = self
            .write_keys(NODE_KEY, &UserKeys::new(locked.node.clone()))
            .and_then(|()| self.write_keys(USER_KEY, &locked.user))
            .and_then(|()| self.remove(LOCKED_KEYS));
        if written.is_err() && self.contains(LOCKED_KEYS)? {
            // On a full disk, say: they stay under it, and lie nowhere else.
            self.remove_bare_keys()?;
        }
        written?;
        *unlocked = None;
        Ok(true)
    }

    /// Makes these the person's keys, in place of those that are the first of them, or were never used.
    pub(crate) fn set_user_keys(&self, keys: &UserKeys, entropy: &dyn Entropy) -> Result<(), HomeError> {
        let mut unlocked = self.unlocked();
        let Some(locked) = &mut *unlocked else {
            return self.write_keys(USER_KEY, keys);
        };
        let before = std::mem::replace(&mut locked.user, keys.clone());
        let written = self.write_file(LOCKED_KEYS, &locked.to_bytes(entropy));
        if written.is_err() {
            locked.user = before;
        }
        written
    }

    fn unlocked(&self) -> MutexGuard<'_, Option<Unlocked>> {
        self.unlocked.lock().expect("never poisoned")
    }

    /// One of the keys of a home that was opened.
    pub(crate) fn unlocked_keys(&self, name: &str) -> Option<UserKeys> {
        let unlocked = self.unlocked();
        let Unlocked { node, user, .. } = unlocked.as_ref()?;
        Some(match name {
            NODE_KEY => UserKeys::new(node.clone()),
            _ => user.clone(),
        })
    }

    fn remove_bare_keys(&self) -> Result<(), HomeError> {
        for name in [NODE_KEY, USER_KEY] {
            // And one that was being written.
            for name in [name.to_owned(), format!("{name}{BEING_WRITTEN}")] {
                if self.contains(&name)? {
                    self.remove(&name)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SystemStorage;
    use potluck_types::SystemEntropy;
    use std::{collections::BTreeSet, fs};

    fn names(home: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(home).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn keys_are_under_a_passphrase_and_come_back_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let take = || Home::take(folder.path(), &SystemStorage).unwrap();
        let passphrase = Passphrase::from("correct horse");
        let home = take();
        let (node, mut user) = (
            home.node_key(&SystemEntropy).unwrap(),
            home.user_keys(&SystemEntropy).unwrap(),
        );
        let bare = fs::read(folder.path().join(USER_KEY)).unwrap();
        home.lock(&passphrase, &SystemEntropy).unwrap();
        assert_eq!(names(folder.path()), ["keys.locked", "lock"].map(str::to_owned).into());
        // Another key takes its place while it runs.
        user.push(SigningKey::from_seed(&[7; 32]));
        home.set_user_keys(&user, &SystemEntropy).unwrap();
        drop(home);
        // It was cut off before the old files were gone.
        fs::write(folder.path().join(USER_KEY), bare).unwrap();
        let home = take();
        assert!(matches!(home.unlock(None), Err(HomeError::NeedsPassphrase { .. })));
        let wrong = home.unlock(Some(&"battery staple".into()));
        assert!(matches!(wrong, Err(HomeError::WrongPassphrase { .. })));
        home.unlock(Some(&passphrase)).unwrap();
        assert_eq!(home.node_key(&SystemEntropy).unwrap().node_id(), node.node_id());
        let kept = home.user_keys(&SystemEntropy).unwrap();
        assert!(kept.all().map(SigningKey::seed).eq(user.all().map(SigningKey::seed)));
        assert_eq!(names(folder.path()), ["keys.locked", "lock"].map(str::to_owned).into());
        // Under another one, and under none.
        let other = Passphrase::from("hunter two");
        home.lock(&other, &SystemEntropy).unwrap();
        drop(home);
        let home = take();
        assert!(home.unlock(Some(&passphrase)).is_err());
        home.unlock(Some(&other)).unwrap();
        // What cannot be written leaves no key in the open.
        fs::create_dir(folder.path().join(USER_KEY)).unwrap();
        assert!(home.unprotect().is_err());
        assert!(!folder.path().join(NODE_KEY).exists());
        fs::remove_dir(folder.path().join(USER_KEY)).unwrap();
        home.unlock(Some(&other)).unwrap();
        assert_eq!(names(folder.path()), ["keys.locked", "lock"].map(str::to_owned).into());
        assert!(home.unprotect().unwrap() && !home.unprotect().unwrap());
        drop(home);
        assert_eq!(
            names(folder.path()),
            ["lock", "node.key", "user.key"].map(str::to_owned).into()
        );
        let home = take();
        home.unlock(None).unwrap();
        assert_eq!(home.user_keys(&SystemEntropy).unwrap().signing().seed(), &[7; 32]);
    }

    #[test]
    fn a_home_whose_keys_are_locked_makes_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::take(folder.path(), &SystemStorage).unwrap();
        home.node_key(&SystemEntropy).unwrap();
        home.user_keys(&SystemEntropy).unwrap();
        home.lock(&"correct horse".into(), &SystemEntropy).unwrap();
        drop(home);
        let home = Home::take(folder.path(), &SystemStorage).unwrap();
        for made in [
            home.node_key(&SystemEntropy).map(drop),
            home.user_keys(&SystemEntropy).map(drop),
        ] {
            assert!(matches!(made, Err(HomeError::NeedsPassphrase { .. })));
        }
        let file = folder.path().join(LOCKED_KEYS);
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let damaged = home.unlock(Some(&"correct horse".into()));
        assert!(matches!(damaged, Err(HomeError::Damaged { .. })));
        fs::write(&file, b"something else").unwrap();
        assert!(matches!(home.unlock(None), Err(HomeError::Damaged { .. })));
    }
}
