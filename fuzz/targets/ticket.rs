//! A ticket as a person pastes it: what is taken has one text form, and comes back from it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use potluck_crypto::Ticket;

fuzz_target!(|text: &str| {
    if let Ok(ticket) = text.parse::<Ticket>() {
        let again = ticket.to_string();
        assert_eq!(again.parse::<Ticket>().expect("its own text").to_string(), again);
    }
});
