# cmake -DBUILD=… -DGENERATOR=… -DCONSUMER=… -P install_and_use.cmake
set(scratch ${BUILD}/install_test)
file(REMOVE_RECURSE ${scratch})

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${scratch}/prefix)
run(${scratch}/prefix/bin/lace --version)
run(${CMAKE_COMMAND} -G ${GENERATOR} -S ${CONSUMER} -B ${scratch}/build -DCMAKE_BUILD_TYPE=Debug
    -DCMAKE_PREFIX_PATH=${scratch}/prefix)
run(${CMAKE_COMMAND} --build ${scratch}/build)
run(${scratch}/build/consumer)
file(REMOVE_RECURSE ${scratch})
