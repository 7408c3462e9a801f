//! The mesh as its users meet it, in network namespaces: real processes, real sockets, the real
//! kernel. Needs root; sends packets only inside of its own namespaces.
//!
//! Most of the time passes in waiting for tokens to end, so more tests may run at once than there
//! are processors: `cargo test -p nsm-e2e --test netns -- --test-threads=6`.

// Helpers of tests are tests: what they cannot do fails the test.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "netns/audit.rs"]
mod audit;
#[path = "netns/away.rs"]
mod away;
#[path = "netns/capabilities.rs"]
mod capabilities;
#[path = "netns/churn.rs"]
mod churn;
#[path = "netns/commands.rs"]
mod commands;
#[path = "netns/connections.rs"]
mod connections;
#[path = "netns/context.rs"]
mod context;
#[path = "netns/counts.rs"]
mod counts;
#[path = "netns/crossing.rs"]
mod crossing;
#[path = "netns/daemon.rs"]
mod daemon;
#[path = "netns/departures.rs"]
mod departures;
#[path = "netns/dns.rs"]
mod dns;
#[path = "netns/drain.rs"]
mod drain;
#[path = "netns/endpoint.rs"]
mod endpoint;
#[path = "netns/faults.rs"]
mod faults;
#[path = "netns/firstpacket.rs"]
mod firstpacket;
#[path = "netns/garbage.rs"]
mod garbage;
#[path = "netns/harness.rs"]
mod harness;
#[path = "netns/heal/mod.rs"]
mod heal;
#[path = "netns/identities.rs"]
mod identities;
#[path = "netns/identity.rs"]
mod identity;
#[path = "netns/large.rs"]
mod large;
#[path = "netns/leftovers.rs"]
mod leftovers;
#[path = "netns/mutations.rs"]
mod mutations;
#[path = "netns/openfiles.rs"]
mod openfiles;
#[path = "netns/ownership.rs"]
mod ownership;
#[path = "netns/pathmtu.rs"]
mod pathmtu;
#[path = "netns/paths.rs"]
mod paths;
#[path = "netns/player.rs"]
mod player;
#[path = "netns/policies.rs"]
mod policies;
#[path = "netns/purge.rs"]
mod purge;
#[path = "netns/refusals.rs"]
mod refusals;
#[path = "netns/restarts.rs"]
mod restarts;
#[path = "netns/rogue.rs"]
mod rogue;
#[path = "netns/selection.rs"]
mod selection;
#[path = "netns/services.rs"]
mod services;
#[path = "netns/standalone.rs"]
mod standalone;
#[path = "netns/story.rs"]
mod story;
#[path = "netns/stranger.rs"]
mod stranger;
#[path = "netns/tunnels.rs"]
mod tunnels;
