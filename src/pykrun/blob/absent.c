/* What CPython's core refers to and the blob never runs: the parser, the compiler, the search for the standard library,
 * the end of the interpreter. The linker's --wrap turns references to these names into references to the stand-ins
 * here, and --gc-sections then drops the real ones: some 600 kB.
 *
 * The arguments do not matter: the caller passes them in registers, where nobody looks.
 */
#include <Python.h>

/* compile(), eval() and exec() of source text */
static void *refuse(void) {
    PyErr_SetString(PyExc_NotImplementedError, "the init blob has no parser and no compiler");
    return NULL;
}

void *__wrap__PyParser_ASTFromString(void) { return refuse(); }
void *__wrap__PyParser_ASTFromFile(void) { return refuse(); }
void *__wrap__PyParser_InteractiveASTFromFile(void) { return refuse(); }
void *__wrap__PyAST_Compile(void) { return refuse(); }
void *__wrap_PyAST_mod2obj(void) { return refuse(); }
void *__wrap_PyAST_obj2mod(void) { return refuse(); }
int __wrap_PyAST_Check(void) { return 0; }
int __wrap__PyAST_Validate(void) { return 0; }
void *__wrap__PyTokenizer_FindEncodingFilename(void) { return NULL; } /* reading source for a traceback */

/* every path is given (launcher.c), none is computed */
PyStatus __wrap__PyConfig_InitPathConfig(PyConfig *config, int compute) { return PyStatus_Ok(); }

/* the process ends by _exit */
void __wrap__PyAST_Fini(void) {}
void __wrap__PyIO_Fini(void) {}
