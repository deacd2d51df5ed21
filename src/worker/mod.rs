//! The life of a file worker, inside its cell: one call in, one reply out, until the channel closes.
//!
//! It has no word for key or network, and every path it can name was named for it.

use zerostack_sandbox::Channel;

use crate::tools::{self, Roots};
use crate::wire::{Call, Hello};

pub fn serve(channel: &Channel) {
    let Ok((hello, _)) = channel.recv::<Hello>() else { return };
    let roots = Roots::open(hello.roots);
    // Any error here means that the supervisor is gone, or not the one we know.
    while let Ok((call, descriptors)) = channel.recv::<Call>() {
        let reply = tools::run(&call, &roots, descriptors.into_iter().next());
        if channel.send(&reply, &[]).is_err() {
            return;
        }
    }
}
