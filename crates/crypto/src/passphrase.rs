//! What is sealed under a passphrase: an armored `age` file (<https://c2sp.org/age>), so that it can also be opened with the tool of that
//! name, and printed. The passphrase is stretched with scrypt; how much is bounded both ways, so that the file is worth little to
//! a thief, and opening a hostile one costs at most a second or two and 1 GiB.
//!
//! `age` draws its own salt and nonce from the operating system: of this crate, only what is sealed here does not follow from
//! its inputs alone.

use age::{DecryptError, Decryptor, armor::ArmoredReader, secrecy::SecretString};
use std::{fmt, io::Read, iter};
use zeroize::Zeroizing;

/// The work factor of a new file, as a power of two: about a second, and 256 MiB.
const WORK_FACTOR: u8 = 18;
/// The most work that opening one may take, for files that `age` itself encrypted anew on a faster machine.
const WORK_FACTOR_MAX: u8 = 20;

/// What a person remembers: erased when dropped, and never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// Why what is sealed under a passphrase does not open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PassphraseError {
    /// The passphrase is another, or the part of the file that it is checked with is damaged.
    #[error("the passphrase does not open it")]
    Wrong,
    /// The file is something else.
    #[error("nothing is sealed under a passphrase there")]
    NotSealed,
    /// Some of it was changed or is missing.
    #[error("it is damaged")]
    Damaged,
    /// The file demands more work than this program is willing to do.
    #[error("it asks for 2^{required} rounds of scrypt, and 2^{WORK_FACTOR_MAX} are the most")]
    TooMuchWork {
        /// The power of two.
        required: u8,
    },
}

impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

/// Says only what it is.
impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(secret)")
    }
}

impl Passphrase {
    /// Seals something: text. Takes about a second, on purpose.
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        self.seal_with(plain, WORK_FACTOR)
    }

    pub(crate) fn seal_with(&self, plain: &[u8], work_factor: u8) -> Vec<u8> {
        let mut recipient = age::scrypt::Recipient::new(self.secret());
        recipient.set_work_factor(work_factor);
        let text = age::encrypt_and_armor(&recipient, plain).expect("writing to memory with one recipient succeeds");
        text.into_bytes()
    }

    /// Whether something can be sealed there, as far as that shows without the passphrase.
    pub fn check(file: &[u8]) -> Result<(), PassphraseError> {
        decryptor(file).map(drop)
    }

    /// Opens what was sealed. Takes about a second, and not much more for anything else.
    pub fn open(&self, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
        let decryptor = decryptor(file)?;
        let mut identity = age::scrypt::Identity::new(self.secret());
        identity.set_max_work_factor(WORK_FACTOR_MAX);
        let mut reader = decryptor
            .decrypt(iter::once(&identity as _))
            .map_err(|error| match error {
                DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => PassphraseError::Wrong,
                DecryptError::ExcessiveWork { required, .. } => PassphraseError::TooMuchWork { required },
                _ => PassphraseError::Damaged,
            })?;
        // Never more than the file has, so this does not grow and leave copies behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(file.len()));
        reader.read_to_end(&mut plain).map_err(|_| PassphraseError::Damaged)?;
        Ok(plain)
    }

    fn secret(&self) -> SecretString {
        SecretString::from(self.0.as_str())
    }
}

fn decryptor(file: &[u8]) -> Result<Decryptor<impl Read + '_>, PassphraseError> {
    let otherwise = match is_age_file(file) {
        true => PassphraseError::Damaged,
        false => PassphraseError::NotSealed,
    };
    let decryptor = Decryptor::new_buffered(ArmoredReader::new(file)).map_err(|_| otherwise)?;
    match decryptor.is_scrypt() {
        true => Ok(decryptor),
        false => Err(PassphraseError::NotSealed),
    }
}

/// Whether a file starts as `age` files do, armored or not.
fn is_age_file(file: &[u8]) -> bool {
    let text = file.trim_ascii_start();
    text.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----") || text.starts_with(b"age-encryption.org/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_its_passphrase_and_no_other() {
        let passphrase = Passphrase::from("correct horse");
        let file = passphrase.seal_with(b"keys", 4);
        assert_eq!(**passphrase.open(&file).unwrap(), *b"keys");
        let wrong = Passphrase::from("battery staple").open(&file);
        assert_eq!(wrong.map(drop), Err(PassphraseError::Wrong));
        assert_eq!(Passphrase::check(b"keys"), Err(PassphraseError::NotSealed));
        assert_eq!(Passphrase::check(&file[..60]), Err(PassphraseError::Damaged));
        assert_eq!(format!("{passphrase:?}"), "Passphrase(secret)");
        // The stanza's last argument is the work factor: `-> scrypt SALT 4`.
        let mut recipient = age::scrypt::Recipient::new(passphrase.secret());
        recipient.set_work_factor(4);
        let mut bytes = age::encrypt(&recipient, b"keys").unwrap();
        let at = bytes.windows(3).position(|window| window == b" 4\n").unwrap();
        bytes.splice(at + 1..at + 2, *b"30");
        let greedy = passphrase.open(&bytes).map(drop);
        assert_eq!(greedy, Err(PassphraseError::TooMuchWork { required: 30 }));
    }
}
