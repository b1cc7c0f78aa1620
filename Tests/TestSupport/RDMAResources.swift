import Glibc

/// What the kernel's RDMA resource tracking counts, by way of rdma(8) of iproute2.
enum RDMAResources {
    /// Memory regions registered on the device that PAGEFERRY_RDMA names; nil without one, and without rdma(8).
    static func memoryRegistrations() -> Int? {
        guard let name = getenv("PAGEFERRY_RDMA").map({ String(cString: $0) }), !name.isEmpty,
            let output = output(of: ["rdma", "resource", "show", name])
        else { return nil }
        // "0: rxe0: pd 3 cq 4 qp 1 cm_id 0 mr 2 ctx 1 srq 0"
        let words = output.split(whereSeparator: \.isWhitespace)
        guard let index = words.firstIndex(of: "mr"), index + 1 < words.count else { return nil }
        return Int(words[index + 1])
    }

    private static func output(of arguments: [String]) -> String? {
        var ends: [Int32] = [0, 0]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else { return nil }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        var vector = arguments.map { strdup($0) } + [nil]
        defer { for string in vector { free(string) } }
        var child: pid_t = 0
        let code = posix_spawnp(&child, arguments[0], &actions, nil, &vector, environ)
        close(ends[1])
        defer { close(ends[0]) }
        guard code == 0 else { return nil }
        let text = String(decoding: contents(of: ends[0]), as: UTF8.self)
        waitpid(child, nil, 0)
        return text
    }
}
