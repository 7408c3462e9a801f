//! Elements of registry chains, one a file, under upstream's names.

mod access;
mod authorize;
mod authorizeclient;
mod clientinfo;
mod connect;
mod expire;
mod interdomain;
mod judge;
mod localbypass;
mod memory;
mod objects;
mod registration;
mod serve;
mod setpayload;
mod storage;
mod store;
mod table;
mod updatepath;

pub use self::{
    access::Access,
    authorize::Authorize,
    authorizeclient::AuthorizeClient,
    connect::{Connect, Wire},
    expire::Expire,
    interdomain::Interdomain,
    localbypass::LocalBypass,
    memory::Memory,
    objects::{
        Apply, Keeper, LeaseServer, Leases, Object, ObjectServer, Objects, Reach, Refusal, Resource, Shared,
    },
    registration::Registration,
    serve::{RegistryService, STALE},
    setpayload::SetPayload,
    storage::Storage,
    store::Store,
    updatepath::UpdatePath,
};
