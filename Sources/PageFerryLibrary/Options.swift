import CPageFerry
import Glibc
import HostMemory
import NativeHandoff
import PageCore
import PageEngine
import PageFerry
import SecureStream
import StreamTransport

// What callers pass, checked: structures of C become values of Swift.

/// How lanes are protected, and where they may lead.
struct LibrarySecurity: Sendable {
    private var credentials: TLSCredentials?
    private var peerName: String?
    private var isInsecure = false

    init(_ options: UnsafePointer<pageferry_security>?) throws(LibraryError) {
        // SAFETY: NULL, or a structure of the caller's that lives for the call, as the header says; its texts are copied.
        guard let options = unsafe options?.pointee else { return }
        peerName = unsafe CText.read(options.peer_name)
        isInsecure = unsafe options.insecure != 0
        let certificate = unsafe [CText.read(options.certificate_path), CText.read(options.key_path), CText.read(options.authority_path)]
        if let path = unsafe CText.read(options.pre_shared_key_path) {
            guard certificate == [nil, nil, nil] else { throw .argument("give either a pre-shared key or certificates") }
            credentials = .preSharedKey(path: path)
        } else if let chain = certificate[0], let key = certificate[1], let authority = certificate[2] {
            credentials = .certificates(chainPath: chain, keyPath: key, authorityPath: authority)
        } else if certificate != [nil, nil, nil] {
            throw .argument("a certificate, its key and an authority go together")
        }
        guard !isInsecure || credentials == nil else { throw .argument("insecure is the opposite of credentials; give one") }
    }

    func lanes(_ role: TLSContext.Role) throws(LibraryError) -> LaneSecurity {
        guard let credentials else { return .plain }
        do throws(SessionError) {
            return try LaneSecurity(credentials, role: role, peerName: peerName)
        } catch { throw LibraryError(error) }
    }

    /// An address as people write it, when memory may go there; nil for NULL.
    func address(_ text: UnsafePointer<CChar>?, _ transport: TransportChoice) throws(LibraryError) -> StreamAddress? {
        guard let text = unsafe CText.read(text) else { return nil }
        let address: StreamAddress
        do throws(StreamError) { address = try StreamAddress(parsing: text) } catch { throw LibraryError(error) }
        try check(address, transport)
        return address
    }

    func check(_ address: StreamAddress, _ transport: TransportChoice) throws(LibraryError) {
        if isInsecure { return }
        if credentials != nil {
            guard transport == .tcp else {
                throw .argument("RDMA carries no encryption, whatever the credentials: use streams, or set insecure to 1 in their place")
            }
            return
        }
        let isLocal: Bool
        do throws(StreamError) { isLocal = try address.isLocal } catch { throw LibraryError(error) }
        guard isLocal || transport == .tcp else {
            throw LibraryError(
                PAGEFERRY_ERROR_TRUST,
                "\(address) is beyond this host, and RDMA carries no encryption; set insecure to 1 where the network is trusted, or use streams"
            )
        }
        if !isLocal { throw beyondThisHost("\(address)") }
    }

    /// Whether memory may go over sockets that are connected already.
    func check(_ sockets: AdoptedSockets) throws(LibraryError) {
        guard isInsecure || credentials != nil || sockets.isLocal else { throw beyondThisHost("the peer of an adopted socket") }
    }

    private func beyondThisHost(_ peer: String) -> LibraryError {
        LibraryError(
            PAGEFERRY_ERROR_TRUST,
            "\(peer) is beyond this host, and memory would cross the network in the clear; give credentials, or set insecure to 1")
    }
}

/// Sockets of the caller's: copies of them, until what is to be done with them has succeeded.
struct LibrarySockets {
    let sockets: AdoptedSockets
    private let given: [Int32]

    /// - Returns: nil for none.
    init?(_ descriptors: UnsafePointer<Int32>?, _ count: UInt32) throws(LibraryError) {
        if count == 0 { return nil }
        guard let descriptors = unsafe descriptors, count <= StreamLanes.most else {
            throw .argument("\(count) descriptors to be adopted, and the array is NULL, or they are more than \(StreamLanes.most)")
        }
        // SAFETY: the caller's array has as many elements as it says, for the call.
        given = unsafe Array(UnsafeBufferPointer(start: descriptors, count: Int(count)))
        do throws(StreamError) { sockets = try AdoptedSockets(copying: given) } catch { throw LibraryError(error) }
    }

    /// It has succeeded: the copies are all that is left.
    func takeOver() {
        for descriptor in given { close(descriptor) }
    }
}

enum Options {
    static let mostRegions = RegionLayout.mostRegions

    static func requireSize(_ size: UInt32, of type: any Any.Type, _ bytes: Int) throws(LibraryError) {
        guard size >= bytes, size <= 4096 else {
            throw .argument("the size of \(type) is \(size), not \(bytes): set it to sizeof, and build against this library's header")
        }
    }

    /// A structure of the caller's; of an earlier version's it lacks the last fields, which are as in `empty`.
    static func read<Structure>(
        _ given: UnsafePointer<Structure>, formerBytes: Int, empty: Structure
    ) throws(LibraryError) -> Structure {
        let bytes = MemoryLayout<Structure>.size
        // SAFETY: the header has every structure begin with its size, which is read alone, and says what lies behind it.
        let size = unsafe Int(UnsafeRawPointer(given).load(as: UInt32.self))
        if size != formerBytes { try requireSize(UInt32(size), of: Structure.self, bytes) }
        var read = empty
        unsafe withUnsafeMutableBytes(of: &read) { read in
            unsafe read.copyMemory(from: UnsafeRawBufferPointer(start: given, count: min(size, bytes)))
        }
        return read
    }

    static func transport(_ number: Int32) throws(LibraryError) -> TransportChoice {
        switch number {
        case Int32(PAGEFERRY_TRANSPORT_STREAM.rawValue): .tcp
        case Int32(PAGEFERRY_TRANSPORT_RDMA.rawValue): .rdma
        case Int32(PAGEFERRY_TRANSPORT_AUTO.rawValue): .auto
        default: throw .argument("transport is \(number), which is none of enum pageferry_transport")
        }
    }

    static func requireCount(_ count: UInt32) throws(LibraryError) {
        guard (1...UInt32(mostRegions)).contains(count) else { throw .argument("\(count) regions; 1 to \(mostRegions) are possible") }
    }

    /// The regions of a source; their descriptors are copies, which belong to whoever takes this.
    static func regions(_ options: pageferry_source_options) throws(LibraryError) -> [SourceRegionDescriptor] {
        try requireCount(unsafe options.region_count)
        guard let first = unsafe options.regions else { throw .argument("regions is NULL") }
        var regions: [SourceRegionDescriptor] = []
        do throws(LibraryError) {
            for index in 0..<Int(unsafe options.region_count) {
                // SAFETY: the caller's array has as many elements as it says, for the call.
                let region = unsafe first[index]
                let name = unsafe CText.read(region.name) ?? "region \(index)"
                let (memory, offsetBytes, lengthBytes) = unsafe (region.memory_descriptor, region.file_offset, region.length_bytes)
                guard let offset = Int(exactly: offsetBytes), let length = Int(exactly: lengthBytes), length > 0,
                    length <= RegionLayout.mostBytes, offset <= RegionLayout.mostBytes
                else { throw .argument("region '\(name)' is empty or exceeds an address space") }
                let copy = fcntl(memory, F_DUPFD_CLOEXEC, 3)
                guard copy >= 0 else { throw .argument("region '\(name)': \(memory) is no open descriptor") }
                regions.append(SourceRegionDescriptor(name: name, descriptor: copy, fileOffset: offset, lengthBytes: length))
            }
        } catch {
            for region in regions { close(region.descriptor) }
            throw error
        }
        return regions
    }

    /// The regions of a destination, checked as those of a hand-off are; their descriptors are copies.
    static func regions(_ options: pageferry_destination_options) throws(LibraryError) -> DestinationRegions {
        try requireCount(unsafe options.region_count)
        guard let first = unsafe options.regions else { throw .argument("regions is NULL") }
        // SAFETY: the caller's array has as many elements as it says, for the call.
        let given = unsafe Array(UnsafeBufferPointer(start: first, count: Int(options.region_count)))
        var announced: [KeptRegion] = []
        var descriptors: [String: Int32] = [:]
        for index in unsafe given.indices {
            let region = unsafe given[index]
            let isShared = unsafe region.memory_descriptor >= 0
            let userfaultOf = unsafe given.firstIndex { unsafe $0.userfault_descriptor == region.userfault_descriptor } ?? index
            let fileOf = unsafe isShared ? given.firstIndex { unsafe $0.memory_descriptor == region.memory_descriptor } ?? index : index
            if userfaultOf == index { descriptors[KeptMemory.userfaultName(index)] = unsafe region.userfault_descriptor }
            if isShared, fileOf == index { descriptors[KeptMemory.fileName(index)] = unsafe region.memory_descriptor }
            announced.append(
                unsafe KeptRegion(
                    name: CText.read(region.name) ?? "region \(index)", address: region.address, lengthBytes: region.length_bytes,
                    fileOffset: isShared ? region.file_offset : 0, pageSizeBytes: region.page_size_bytes, isShared: isShared,
                    userfaultOf: userfaultOf, fileOf: fileOf))
        }
        let list: [DestinationRegion]
        do throws(HandoffError) {
            let regions = try HandedOverRegions(kept: announced) { name in
                guard let descriptor = descriptors[name] else { return nil }
                let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
                return copy >= 0 ? copy : nil
            }
            list = try DestinationRegion.list(from: regions)
        } catch { throw LibraryError(error) }
        do throws(SessionError) { return try DestinationRegions(list) } catch { throw LibraryError(error) }
    }
}
