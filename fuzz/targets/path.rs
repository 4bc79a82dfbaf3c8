//! Names and paths: what is taken is plain, and comes back from its text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_spaces::Path;

fuzz_target!(|text: &str| {
    if let Ok(path) = text.parse::<Path>() {
        assert!(
            path.names()
                .iter()
                .all(|name| !matches!(name.as_str(), "" | "." | ".."))
        );
        assert!(path.names().iter().all(|name| !name.as_str().contains(['/', '\0'])));
        assert_eq!(path.to_string().parse::<Path>().expect("its own text"), path);
    }
});
