//! Where the socket of a home is. It lies in the home, which only its owner may enter; where that makes too long a path for the
//! operating system, it lies in a folder of the owner's under `$XDG_RUNTIME_DIR` or `/tmp`, and `HOME/api.path` says where.

use crate::complaint::{Complaint, Kind};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The shortest of the limits that systems have on the path of a socket is 104 bytes, with the final zero.
const SOCKET_PATH_BYTES_MAX: usize = 100;
const RECORD: &str = "api.path";

/// Where commands find the socket.
pub(crate) fn find(home: &Path) -> PathBuf {
    match fs::read_to_string(home.join(RECORD)) {
        Ok(path) => PathBuf::from(path.trim_end()),
        Err(_) => home.join("api.sock"),
    }
}

/// Makes the socket, in place of one that a daemon left behind. The caller holds the home.
pub(crate) fn bind(home: &Path) -> Result<std::os::unix::net::UnixListener, Complaint> {
    let path = choose(home)?;
    let failed = |error: io::Error| Complaint::io("cannot make the socket", &path, &error);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Removes the socket when the daemon ends.
pub(crate) fn remove(home: &Path) {
    // A socket that stays is replaced at the next start.
    let _ = fs::remove_file(find(home));
}

fn choose(home: &Path) -> Result<PathBuf, Complaint> {
    let record = home.join(RECORD);
    let plain = home.join("api.sock");
    if plain.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        let _ = fs::remove_file(&record);
        return Ok(plain);
    }
    let hash = potluck_types::Hash::of(home.as_os_str().as_encoded_bytes());
    let owner = rustix::process::geteuid().as_raw();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let folder = match runtime {
        Some(runtime) if runtime.as_os_str().len() < SOCKET_PATH_BYTES_MAX / 2 => runtime.join("potluck"),
        _ => PathBuf::from(format!("/tmp/potluck-{owner}")),
    };
    own_folder(&folder, owner)?;
    let path = folder.join(format!("{}.sock", hash.short()));
    fs::write(&record, path.as_os_str().as_encoded_bytes())
        .map_err(|error| Complaint::io("cannot write", &record, &error))?;
    Ok(path)
}

/// A folder that is ours alone: in `/tmp` somebody else may have made it first.
fn own_folder(folder: &Path, owner: u32) -> Result<(), Complaint> {
    let failed = |error: io::Error| Complaint::io("cannot make", folder, &error);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let metadata = fs::symlink_metadata(folder).map_err(failed)?;
    if metadata.is_dir() && metadata.uid() == owner && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    Err(Complaint::new(
        Kind::Refused,
        format!("{} is not a folder of yours alone", folder.display()),
    )
    .hint("set XDG_RUNTIME_DIR to one that is, or choose a home with a shorter path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_home_has_a_socket_too() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("x".repeat(120));
        fs::create_dir(&deep).unwrap();
        for home in [folder.path(), &deep] {
            let _listener = bind(home).unwrap();
            let path = find(home);
            assert!(path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            drop(bind(home).unwrap());
            remove(home);
            assert!(!path.exists());
        }
    }
}
