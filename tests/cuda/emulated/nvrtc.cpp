/* NVRTC's functions, by the host's compiler: a program becomes a shared object of kernels for the emulation
 * (library.cpp). The sources that it includes are those it is given; the system's headers are the host's own.
 */
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

struct nvrtc_program {
    std::string text, log, image;
    std::vector<std::string> name, header;
};

enum { SUCCESS = 0, INVALID_OPTION = 5, COMPILATION = 6 };

namespace fs = std::filesystem;

static std::string slurp(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

static void spill(const fs::path &path, const std::string &text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

static std::vector<std::string> words(const char *text) {
    std::istringstream in(text);
    std::vector<std::string> all;
    for (std::string word; in >> word;) all.push_back(word);
    return all;
}

/* Its messages go to a file. */
static bool run(const std::vector<std::string> &command, const fs::path &messages) {
    const pid_t child = fork();
    if (child == 0) {
        std::vector<char *> argument;
        for (const std::string &word : command) argument.push_back(const_cast<char *>(word.c_str()));
        argument.push_back(nullptr);
        if (!freopen(messages.c_str(), "w", stderr)) _exit(127);
        execvp(argument[0], argument.data());
        _exit(127);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return false;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int build(nvrtc_program *p, const fs::path &folder) {
    for (size_t i = 0; i < p->name.size(); i++)
        if (p->name[i].find('/') != std::string::npos) spill(folder / p->name[i], p->header[i]);
    spill(folder / "heed.cpp", p->text);
    std::vector<std::string> command = {TWIN_COMPILER};
    for (const std::string &flag : words(TWIN_FLAGS)) command.push_back(flag);
    for (const std::string &word : {"-I" + folder.string(), "-o" + (folder / "twin.so").string(),
                                    (folder / "heed.cpp").string(), std::string(TWIN_LIBRARY)})
        command.push_back(word);
    const bool done = run(command, folder / "messages");
    p->log = slurp(folder / "messages");
    if (done) p->image = slurp(folder / "twin.so");
    return done ? SUCCESS : COMPILATION;
}

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED int nvrtcCreateProgram(nvrtc_program **program, const char *text, const char *, int headers,
                                const char *const *texts, const char *const *names) {
    nvrtc_program *p = new nvrtc_program;
    p->text = text;
    for (int i = 0; i < headers; i++) {
        p->name.push_back(names[i]);
        p->header.push_back(texts[i]);
    }
    *program = p;
    return SUCCESS;
}

/* The options that it is given are for NVIDIA's compiler; that of the architecture must be there. */
EXPORTED int nvrtcCompileProgram(nvrtc_program *p, int options, const char *const *option) {
    bool architecture = false;
    for (int i = 0; i < options; i++)
        architecture = architecture || strncmp(option[i], "--gpu-architecture=sm_", 22) == 0;
    if (!architecture) return INVALID_OPTION;
    char folder[] = "/tmp/heed-emulated-XXXXXX";
    if (!mkdtemp(folder)) return COMPILATION;
    const int result = build(p, folder);
    fs::remove_all(folder);
    return result;
}

EXPORTED int nvrtcDestroyProgram(nvrtc_program **program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}

EXPORTED int nvrtcGetProgramLogSize(nvrtc_program *p, size_t *bytes) {
    *bytes = p->log.size() + 1;
    return SUCCESS;
}

EXPORTED int nvrtcGetProgramLog(nvrtc_program *p, char *log) {
    memcpy(log, p->log.c_str(), p->log.size() + 1);
    return SUCCESS;
}

EXPORTED int nvrtcGetCUBINSize(nvrtc_program *p, size_t *bytes) {
    *bytes = p->image.size();
    return SUCCESS;
}

EXPORTED int nvrtcGetCUBIN(nvrtc_program *p, char *image) {
    memcpy(image, p->image.data(), p->image.size());
    return SUCCESS;
}

EXPORTED const char *nvrtcGetErrorString(int result) {
    return result == SUCCESS       ? "NVRTC_SUCCESS"
           : result == COMPILATION ? "NVRTC_ERROR_COMPILATION"
                                   : "NVRTC_ERROR";
}
