import ArgumentParser
import PageFerry
import SecureStream
import StreamTransport

/// How lanes between hosts are protected: TLS with certificates or a pre-shared key, or nothing where that is said in so many words.
struct SecurityArguments: ParsableArguments {
    @Option(help: ArgumentHelp("This host's certificate, PEM, with those between it and an authority.", valueName: "file"))
    var tlsCertificate: String?

    @Option(help: ArgumentHelp("The private key of that certificate, PEM.", valueName: "file"))
    var tlsKey: String?

    @Option(help: ArgumentHelp("The authorities whose certificates are believed, PEM.", valueName: "file"))
    var tlsAuthority: String?

    @Option(
        help: ArgumentHelp(
            "The name or IP address the peer's certificate must carry; a destination expects the host it connects to by default.",
            valueName: "name"))
    var tlsPeerName: String?

    @Option(help: ArgumentHelp("In place of certificates: a file with a key that both hosts have, for its owner alone.", valueName: "file"))
    var tlsPsk: String?

    @Flag(help: "Let memory cross a network in the clear, believed from whoever answers.")
    var insecure = false

    func validate() throws {
        let certificate = [tlsCertificate, tlsKey, tlsAuthority]
        guard certificate.allSatisfy({ $0 == nil }) || certificate.allSatisfy({ $0 != nil }) else {
            throw ValidationError("--tls-certificate, --tls-key and --tls-authority go together")
        }
        guard tlsPsk == nil || tlsCertificate == nil else {
            throw ValidationError("give either --tls-psk or --tls-certificate, --tls-key and --tls-authority")
        }
        guard tlsPeerName == nil || tlsCertificate != nil else { throw ValidationError("--tls-peer-name goes with --tls-certificate") }
        guard !insecure || credentials == nil else { throw ValidationError("--insecure is the opposite of the --tls options; give one") }
    }

    private var credentials: TLSCredentials? {
        if let tlsPsk { return .preSharedKey(path: tlsPsk) }
        guard let tlsCertificate, let tlsKey, let tlsAuthority else { return nil }
        return .certificates(chainPath: tlsCertificate, keyPath: tlsKey, authorityPath: tlsAuthority)
    }

    /// Reads the credentials; plain without any.
    func security(_ role: TLSContext.Role) throws(CommandFailure) -> LaneSecurity {
        guard let credentials else { return .plain }
        return try attempt { () throws(SessionError) in try LaneSecurity(credentials, role: role, peerName: tlsPeerName) }
    }

    /// The policy: nothing leaves this host in the clear unless that was asked for.
    func check(_ address: StreamAddress, _ transport: TransportChoice) throws(CommandFailure) {
        if insecure { return }
        if credentials != nil {
            guard transport == .tcp else {
                throw CommandFailure(
                    "RDMA carries no encryption, whatever the --tls options say; use --transport tcp, or --insecure in their place", .usage)
            }
            return
        }
        guard try !attempt({ () throws(StreamError) in try address.isLocal }) else { return }
        throw CommandFailure(
            transport == .tcp
                ? "\(address) is beyond this host, and memory would cross the network in the clear; give --tls-psk, or --tls-certificate, --tls-key and --tls-authority, or write --insecure"
                : "\(address) is beyond this host, and RDMA carries no encryption; write --insecure where the network is trusted, or use --transport tcp with the --tls options",
            .usage)
    }
}
