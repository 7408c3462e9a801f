//! `kernel`: the application's own side of a kernel interface (protocol §6.3). Neither client nor
//! endpoint makes it: they say in which network namespace and under which name it shall be.

use std::{fs::File, io, os::fd::OwnedFd, sync::Arc};

use async_trait::async_trait;

use crate::{
    api::{
        Mechanism,
        mechanism::{CLIENT_INTERFACE, INODE_URL, NAME, interface_name},
        peer::{FileKey, Files},
    },
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    transport::file_key,
};

/// This process's network namespace, held open.
#[derive(Clone, Debug)]
struct Netns {
    key: FileKey,
    file: Arc<OwnedFd>,
}

impl Netns {
    fn own() -> io::Result<Self> {
        let file = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
        Ok(Self { key: file_key(&file)?, file: Arc::new(file) })
    }

    fn put(&self, mechanism: &mut Mechanism, files: &mut Files) {
        mechanism.set(INODE_URL, self.key);
        files.insert(self.key, self.file.clone());
    }
}

/// For clients: asks for an interface in this process's network namespace.
#[derive(Clone, Debug)]
pub struct KernelClient {
    netns: Netns,
    name: Option<String>,
}

/// For endpoints: says where the endpoint's interface shall be.
#[derive(Clone, Debug)]
pub struct KernelServer {
    netns: Netns,
}

impl KernelClient {
    /// Asks for an interface of this name, or of one made from service and connection.
    pub fn new(name: Option<String>) -> io::Result<Self> {
        Ok(Self { netns: Netns::own()?, name })
    }
}

impl KernelServer {
    /// In this process's network namespace.
    pub fn new() -> io::Result<Self> {
        Ok(Self { netns: Netns::own()? })
    }
}

#[async_trait]
impl Element for KernelClient {
    fn name(&self) -> &'static str {
        "kernel"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let name = self.name.clone().unwrap_or_else(|| {
            interface_name(&request.connection.network_service, request.connection.origin_id())
        });
        if request.preferences.is_empty() {
            request.preferences.push(Mechanism::kernel());
        }
        let mechanisms = request.preferences.iter_mut().chain(&mut request.connection.mechanism);
        for mechanism in mechanisms.filter(|mechanism| mechanism.is_kernel()) {
            self.netns.put(mechanism, &mut request.files);
            mechanism.set(NAME, &name);
        }
        let mut reply = next.request(cx, request).await?;
        let mechanism = reply.connection.mechanism.clone();
        reply.connection.note_interface(CLIENT_INTERFACE, mechanism.as_ref());
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<()> {
        if let Some(mechanism) = request.connection.mechanism.as_mut() {
            self.netns.put(mechanism, &mut request.files);
        }
        next.close(cx, request).await
    }
}

#[async_trait]
impl Element for KernelServer {
    fn name(&self) -> &'static str {
        "kernel"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        // Another name than the client's: both may be in one network namespace.
        let id = format!("{}/endpoint", request.connection.origin_id());
        let name = interface_name(&request.connection.network_service, &id);
        let missing = || Error::new(Kind::Invalid, "the connection has no mechanism");
        let mechanism = request.connection.mechanism.as_mut().ok_or_else(missing)?;
        self.netns.put(mechanism, &mut request.files);
        if mechanism.get(NAME).is_none() {
            mechanism.set(NAME, name);
        }
        next.request(cx, request).await
    }
}
