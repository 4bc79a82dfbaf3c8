//! The configuration of a node: what was typed, else the environment, else `HOME/config.toml`, else defaults.

use crate::{
    complaint::{Complaint, Kind},
    span::Span,
};
use potluck_node::{NodeConfig, Share, World};
use potluck_spaces::RETENTION_MAX;
use potluck_types::{ByteSize, MachineName, Region, Zone};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

/// The port that a node listens on, if nothing else is said.
const LISTEN: &str = "0.0.0.0:4720";
/// How long an absent node is waited for, as designed.
const GRACE: Span = Span::seconds(15 * 60);
/// How long what is removed can be brought back: as long as the services that people know keep it.
const RETENTION: Span = Span::seconds(30 * 86_400);
/// A node is no use with less.
const CAPACITY_BYTES_MIN: u64 = 64 << 20;

/// The settings that one source gives; those it does not mention are `None`.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Addresses to listen on, `IP:PORT` each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<Vec<String>>,
    /// Addresses to announce beside those found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) announce: Option<Vec<String>>,
    /// What the pool may use of this disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) capacity: Option<ByteSize>,
    /// The failure domain of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) zone: Option<Zone>,
    /// Where this machine stands: what spaces are kept in, that are not to be everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) region: Option<Region>,
    /// What this machine is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) machine: Option<MachineName>,
    /// Whether to find members on the local network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mdns: Option<bool>,
    /// Whether to carry what members say to each other that cannot reach each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) relay: Option<bool>,
    /// How long an absent node is waited for before its shards are made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grace: Option<Span>,
    /// Whether `get` syncs what it writes to the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fsync: Option<bool>,
    /// How long what is removed or overwritten can be brought back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retention: Option<Span>,
    /// What part of all files may be removed and overwritten within an hour without a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mass_change_share: Option<Share>,
}

const KEYS: [&str; 12] = [
    "listen",
    "announce",
    "capacity",
    "zone",
    "region",
    "machine",
    "mdns",
    "relay",
    "grace",
    "fsync",
    "retention",
    "mass_change_share",
];

impl Settings {
    /// These settings, and where they say nothing, those.
    #[must_use]
    pub(crate) fn over(self, below: Self) -> Self {
        Self {
            listen: self.listen.or(below.listen),
            announce: self.announce.or(below.announce),
            capacity: self.capacity.or(below.capacity),
            zone: self.zone.or(below.zone),
            region: self.region.or(below.region),
            machine: self.machine.or(below.machine),
            mdns: self.mdns.or(below.mdns),
            relay: self.relay.or(below.relay),
            grace: self.grace.or(below.grace),
            fsync: self.fsync.or(below.fsync),
            retention: self.retention.or(below.retention),
            mass_change_share: self.mass_change_share.or(below.mass_change_share),
        }
    }

    /// From `POTLUCK_*` variables, with `variable` to look one up.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Complaint> {
        let list = |name| variable(name).map(|text| text.split(',').map(|part| part.trim().to_owned()).collect());
        Ok(Self {
            listen: list("POTLUCK_LISTEN"),
            announce: list("POTLUCK_ANNOUNCE"),
            capacity: parsed(&variable, "POTLUCK_CAPACITY")?,
            zone: parsed(&variable, "POTLUCK_ZONE")?,
            region: parsed(&variable, "POTLUCK_REGION")?,
            machine: parsed(&variable, "POTLUCK_MACHINE")?,
            mdns: parsed(&variable, "POTLUCK_MDNS")?,
            relay: parsed(&variable, "POTLUCK_RELAY")?,
            grace: parsed(&variable, "POTLUCK_GRACE")?,
            fsync: parsed(&variable, "POTLUCK_FSYNC")?,
            retention: parsed(&variable, "POTLUCK_RETENTION")?,
            mass_change_share: parsed(&variable, "POTLUCK_MASS_CHANGE_SHARE")?,
        })
    }

    /// From the text of a configuration file.
    pub(crate) fn from_toml(text: &str, file: &Path) -> Result<Self, Complaint> {
        let table: toml::Table = toml::from_str(text)
            .map_err(|error| Complaint::usage(format!("{} is not TOML: {}", file.display(), one_line(&error))))?;
        if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let complaint = Complaint::usage(format!("{} has the unknown key `{unknown}`", file.display()));
            return Err(match nearest(unknown) {
                Some(known) => complaint.hint(format!("did you mean `{known}`?")),
                None => complaint.hint(format!("known are {}", KEYS.join(", "))),
            });
        }
        toml::from_str(text).map_err(|error| Complaint::usage(format!("{}: {}", file.display(), one_line(&error))))
    }

    /// From `HOME/config.toml`; nothing when there is none.
    pub(crate) fn from_home(home: &Path) -> Result<Self, Complaint> {
        let file = file(home);
        match fs::read_to_string(&file) {
            Ok(text) => Self::from_toml(&text, &file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(Complaint::io("cannot read", &file, &error)),
        }
    }

    /// What holds in the end: `typed`, else the environment, else the file of the home.
    pub(crate) fn effective(typed: Self, home: &Path) -> Result<Self, Complaint> {
        let environment = Self::from_environment(|name| std::env::var(name).ok())?;
        Ok(typed.over(environment).over(Self::from_home(home)?))
    }

    /// With a value for everything that has a default, given how much of the disk is free.
    pub(crate) fn with_defaults(self, free_bytes: u64) -> Self {
        self.over(Self {
            listen: Some(vec![LISTEN.to_owned()]),
            announce: Some(Vec::new()),
            // The other half stays free for what else the machine does.
            capacity: Some(ByteSize(free_bytes / 2)),
            zone: None,
            region: None,
            machine: host_name(),
            mdns: Some(true),
            relay: Some(true),
            grace: Some(GRACE),
            fsync: Some(true),
            retention: Some(RETENTION),
            mass_change_share: Some(Share::HALF),
        })
    }

    /// The node's part of it.
    pub(crate) fn node_config(self, home: &Path) -> Result<NodeConfig, Complaint> {
        let settings = self.with_defaults(free_bytes(home)?);
        let capacity = settings.capacity.unwrap_or_default();
        if capacity.0 < CAPACITY_BYTES_MIN {
            let least = ByteSize(CAPACITY_BYTES_MIN);
            return Err(
                Complaint::usage(format!("a node cannot work with {capacity}: the least is {least}"))
                    .hint("offer more with `--capacity 10GB`, or put the home on a larger disk: `--home DIR`"),
            );
        }
        let retention = settings.retention.unwrap_or(RETENTION).duration();
        if retention > RETENTION_MAX {
            let days = RETENTION_MAX.as_secs() / 86_400;
            return Err(Complaint::usage(format!("what is removed is kept for {days}d at most")));
        }
        Ok(NodeConfig {
            home: home.to_owned(),
            listen: settings.listen.unwrap_or_default(),
            announce: settings.announce.unwrap_or_default(),
            capacity,
            zone: settings.zone,
            region: settings.region,
            name: settings.machine,
            mdns: settings.mdns.unwrap_or(true),
            relay: settings.relay.unwrap_or(true),
            grace: settings.grace.unwrap_or(GRACE).duration(),
            world: World::default(),
            retention,
            mass_change_share: settings.mass_change_share.unwrap_or(Share::HALF),
            passphrase: None,
        })
    }

    /// Keeps these settings in the home, for the next start. Leaves a file that is there alone.
    pub(crate) fn keep(&self, home: &Path) -> Result<(), Complaint> {
        let file = file(home);
        if file.exists() {
            return Ok(());
        }
        let text = format!(
            "# How this node runs. `potluck config` prints what holds.\n{}",
            self.to_toml()
        );
        make_home(home)?;
        fs::write(&file, text).map_err(|error| Complaint::io("cannot write", &file, &error))
    }

    /// As a configuration file has it.
    pub(crate) fn to_toml(&self) -> String {
        let mut people = toml::Table::try_from(self).unwrap_or_default();
        if let Some(capacity) = self.capacity {
            people.insert("capacity".to_owned(), toml::Value::String(exact_size(capacity)));
        }
        toml::to_string(&people).unwrap_or_default()
    }
}

/// A size in the largest unit that loses nothing.
fn exact_size(size: ByteSize) -> String {
    [
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1000),
    ]
    .into_iter()
    .find(|(_, factor)| size.0 > 0 && size.0.is_multiple_of(*factor))
    .map_or_else(
        || size.0.to_string(),
        |(unit, factor)| format!("{}{unit}", size.0 / factor),
    )
}

/// Where the settings of a home are kept.
pub(crate) fn file(home: &Path) -> PathBuf {
    home.join("config.toml")
}

/// The home when none is named: `$XDG_DATA_HOME/potluck`, else `~/.local/share/potluck`.
pub(crate) fn default_home(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = folder("XDG_DATA_HOME").or_else(|| folder("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("potluck"))
}

/// Makes the folder of a home, for its owner only.
pub(crate) fn make_home(home: &Path) -> Result<(), Complaint> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(home)
        .map_err(|error| Complaint::io("cannot make the home", home, &error))
}

/// Bytes that a person may still write to the disk of this folder, or of the nearest one above that exists.
pub(crate) fn free_bytes(folder: &Path) -> Result<u64, Complaint> {
    let there = folder
        .ancestors()
        .find(|above| above.exists())
        .unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(there)
        .map_err(|error| Complaint::io("cannot look at the disk of", there, &error.into()))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn parsed<T: FromStr>(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Result<Option<T>, Complaint>
where
    T::Err: std::fmt::Display,
{
    let Some(text) = variable(name) else { return Ok(None) };
    let value = text
        .parse()
        .map_err(|error| Complaint::new(Kind::Usage, format!("{name}: {error}")))?;
    Ok(Some(value))
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join(" ")
}

/// The known key that is least far from this one, if any is near.
fn nearest(unknown: &str) -> Option<&'static str> {
    let unknown = unknown.to_ascii_lowercase();
    let (distance, key) = KEYS.iter().map(|key| (distance(&unknown, key), *key)).min()?;
    (distance <= key.len().div_ceil(2)).then_some(key)
}

/// Levenshtein's: insertions, deletions and replacements that turn one text into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

/// What the operating system calls this machine, if that will do as a name.
fn host_name() -> Option<MachineName> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    name.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_toml(text: &str) -> Result<Settings, Complaint> {
        Settings::from_toml(text, Path::new("config.toml"))
    }

    #[test]
    fn typed_beats_environment_beats_file_beats_default() {
        let typed = Settings {
            capacity: Some(ByteSize(1)),
            ..Settings::default()
        };
        let variable = |name: &str| match name {
            "POTLUCK_CAPACITY" => Some("2".to_owned()),
            "POTLUCK_LISTEN" => Some("127.0.0.1:1, 127.0.0.1:2".to_owned()),
            "POTLUCK_RELAY" => Some("false".to_owned()),
            _ => None,
        };
        let environment = Settings::from_environment(variable).unwrap();
        let file = from_toml("capacity = \"3GB\"\nlisten = [\"0.0.0.0:3\"]\ngrace = \"5m\"").unwrap();
        let all = typed.over(environment).over(file).with_defaults(1000);
        assert_eq!(all.capacity, Some(ByteSize(1)));
        assert_eq!(all.listen.unwrap(), ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(all.grace.unwrap().to_string(), "5m");
        assert_eq!((all.mdns, all.relay), (Some(true), Some(false)));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let check = |text: &str, hint: &str| assert!(from_toml(text).unwrap_err().hints[0].contains(hint), "{text}");
        check("capasity = 1", "`capacity`");
        check("lisen = []", "`listen`");
        check("Zone = \"a\"", "`zone`");
        check("retentoin = \"1d\"", "`retention`");
        check("frobnicate = 1", "known are");
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        assert!(
            from_toml("capacity = \"much\"")
                .unwrap_err()
                .message
                .contains("not a size")
        );
        assert!(
            from_toml("grace = \"soon\"")
                .unwrap_err()
                .message
                .contains("not a span")
        );
        assert!(from_toml("= 1").unwrap_err().message.contains("not TOML"));
        assert!(
            from_toml("mass_change_share = 2")
                .unwrap_err()
                .message
                .contains("not a share")
        );
        assert!(Settings::from_environment(|name| (name == "POTLUCK_MDNS").then(|| "maybe".to_owned())).is_err());
    }

    #[test]
    fn what_is_kept_reads_back() {
        let settings = Settings {
            zone: Some("attic".parse().unwrap()),
            machine: Some("nas".parse().unwrap()),
            ..Settings::default()
        }
        .with_defaults(3_000_000_000);
        let text = settings.to_toml();
        assert!(text.contains("capacity = \"1500MB\""), "{text}");
        assert_eq!(from_toml(&text).unwrap(), settings);
    }
}
