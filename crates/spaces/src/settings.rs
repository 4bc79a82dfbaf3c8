//! What the people of a space have said of all that is in it.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// See the module. What is not said is left to the machine that writes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// How many losses what is put is to survive, as far as the pool can give that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub survive: Option<u8>,
    /// For how many milliseconds what is removed and overwritten can be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// How many bytes the space may hold, with what can be brought back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
}

impl Settings {
    /// How long what is removed and overwritten can be brought back.
    pub fn retention(&self) -> Option<Duration> {
        self.keep_ms.map(Duration::from_millis)
    }
}
