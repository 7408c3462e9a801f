//! Names of all variables, for the processes that read and the operator that renders them.

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)*
    };
}

names! {
    /// Name of the process: its segment in every path. Stable over restarts.
    NSM_NAME,
    /// Lowest level that is logged: ERROR, WARN, INFO, DEBUG, TRACE, OFF, or a list such as
    /// `info,nsm_components=debug`.
    NSM_LOG_LEVEL,
    /// Longest life of a token; a connection that is not refreshed ends after it.
    NSM_MAX_TOKEN_LIFETIME,
    /// Where the process listens: `unix://` and `tcp://` URLs, comma-separated.
    NSM_LISTEN_ON,
    /// The nsmgr, as a URL.
    NSM_CONNECT_TO,
    /// The registry, as a URL.
    NSM_REGISTRY_URL,
    /// The registry that knows other domains, as a URL: it gets all names with an `@`. Empty: there is
    /// none, and such names are refused.
    NSM_PROXY_REGISTRY_URL,
    /// Where a registry keeps its entries: Memory, or CRD for custom resources of the API server.
    NSM_REGISTRY_STORAGE,
    /// Namespace of the custom resources of what is registered (upstream's name).
    NSM_NAMESPACE,
    /// How long establishing a connection to a peer may take.
    NSM_DIAL_TIMEOUT,
    /// How long one Request may take.
    NSM_REQUEST_TIMEOUT,
    /// Files or patterns of files with policies in rego for Requests and Closes, comma-separated. Upstream's
    /// default patterns stand for the native checks, which count always.
    NSM_SERVER_POLICIES,
    /// The same for what a client gets back for a Request.
    NSM_CLIENT_POLICIES,
    /// The same for who may watch connections.
    NSM_MONITOR_POLICIES,
    /// The same for registrations (upstream's name).
    NSM_REGISTRY_SERVER_POLICIES,
    /// The same for what comes back for a registration (upstream's name); nothing is native there.
    NSM_REGISTRY_CLIENT_POLICIES,
    /// Where the process shows metrics, liveness and readiness, for its own host alone: a `unix://` URL or
    /// a `tcp://` one with a loopback address; empty: nowhere.
    NSM_METRICS_LISTEN_ON,
    /// How many Requests a process works on at once; sixteen times as many wait for their turn.
    NSM_MAX_REQUESTS_IN_FLIGHT,
    /// How long connections do not expire while the identity source cannot issue, and nobody can refresh them.
    NSM_MAX_IDENTITY_OUTAGE,
    /// Labels of the endpoint or forwarder: `key:value,key2:value2`.
    NSM_LABELS,
    /// Network service that forwarders offer.
    NSM_FORWARDER_NETWORK_SERVICE_NAME,
    /// Network service that this forwarder offers.
    NSM_NSNAME,
    /// Address of this node that tunnels use.
    NSM_TUNNEL_IP,
    /// UDP port of VXLAN.
    NSM_VXLAN_PORT,
    /// Types of tunnels that a forwarder offers before others, best first, comma-separated.
    NSM_MECHANISM_PRIORITY,
    /// Network services a client asks for: NSM URLs, comma-separated.
    NSM_NETWORK_SERVICES,
    /// Network services an endpoint offers.
    NSM_SERVICE_NAMES,
    /// What an endpoint carries: ETHERNET or IP.
    NSM_PAYLOAD,
    /// Prefixes an endpoint hands out addresses from.
    NSM_CIDR_PREFIX,
    /// What an endpoint does with addresses that clients bring along: polite or strict.
    NSM_IPAM_POLICY,
    /// DNS servers an endpoint hands to its clients, as a JSON list.
    NSM_DNS_CONFIGS,
    /// File with the policy routes an endpoint hands to its clients.
    NSM_PBR_CONFIG_PATH,
    /// An endpoint that nobody used for this long ends; 0 is never.
    NSM_IDLE_TIMEOUT,
    /// Whether a client serves DNS for its pod with the servers its connections bring.
    NSM_LOCAL_DNS_SERVER_ENABLED,
    /// Where it does: an IP address and a port.
    NSM_LOCAL_DNS_SERVER_ADDRESS,
    /// Whether a client looks at whether packets pass, and asks for another endpoint if they do not.
    NSM_LIVENESS_CHECK_ENABLED,
    /// How often it does.
    NSM_LIVENESS_CHECK_INTERVAL,
    /// How long nothing may come that should.
    NSM_LIVENESS_CHECK_TIMEOUT,
    /// Network services of a client that may share addresses: `[url,url],[url]`.
    NSM_AWARENESS_GROUPS,
    /// Whether an endpoint registers its network services too.
    NSM_REGISTER_SERVICE,
    /// Whether an endpoint takes its registration back when it stops.
    NSM_UNREGISTER_ITSELF,
    /// SPIFFE IDs, by their first parts, of processes that may speak for others and ask endpoints; `*`
    /// is everybody, as upstream. Without it: the mesh's own processes, as far as the own ID tells.
    NSM_TRUSTED_IDS,
    /// Folder for the sockets and files of the process.
    NSM_BASE_DIR,
    /// YAML file with the list `prefixes` that no endpoint shall hand out addresses of.
    NSM_EXCLUDED_PREFIXES_FILE,
    /// Name of the `NSMNodeState` the nsmgr reports into; empty: it reports nowhere.
    NSM_NODE_STATE,
    /// SPIFFE trust domain of the mesh.
    NSM_TRUST_DOMAIN,
    /// Life of an X.509-SVID; it is renewed at half of it.
    NSM_SVID_LIFETIME,
    /// Life of a CA of `nsm identity standalone`; the next one is made ready at half of it.
    NSM_CA_LIFETIME,
    /// Path of the SPIFFE IDs of a host's programs, with `{uid}`, `{gid}`, `{program}` or `{path}`.
    NSM_SPIFFE_ID_TEMPLATE,
    /// `namespace/name` of the Secret with the root key.
    NSM_ROOT_SECRET,
    /// `namespace/name` of the ConfigMap with the trust bundle.
    NSM_BUNDLE_CONFIG_MAP,
    /// The identity authority, as a URL.
    NSM_AUTHORITY_URL,
    /// File with the agent's service account token for the authority.
    NSM_AUTHORITY_TOKEN_FILE,
    /// `namespace/name` of the service account that agents run under.
    NSM_AGENT_SERVICE_ACCOUNT,
    /// The SPIFFE Workload API socket, as a URL.
    SPIFFE_ENDPOINT_SOCKET,
    /// Name of the node, for labels of connections and for identities.
    NODE_NAME,
    /// Name of the pod, for labels of connections.
    POD_NAME,
    /// Name of the cluster, for labels of connections.
    CLUSTER_NAME,
}
