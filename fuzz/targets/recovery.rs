//! A store whose files are hostile: it opens, what it lists after a scrub can be read, and it goes on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_store::fuzzing;

fuzz_target!(|bytes: &[u8]| fuzzing::recovery(bytes));
